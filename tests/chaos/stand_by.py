"""A process of `tailrace` that runs beside what `up` supervises, and is started again whenever it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tailrace.infra.parent import PARENT_VARIABLE


class StandBy:
    """One process. While it is `held` it stays down when it has died."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._argv = argv
        # It dies with the trial, also when that is killed.
        self._environment = {**environment, PARENT_VARIABLE: str(os.getpid())}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._free = asyncio.Event()
        self._free.set()

    async def __aenter__(self) -> Self:
        await self._start()
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask it to end; whoever looks afterwards finds what it left."""
        assert self._keeping is not None
        self._keeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeping
        self.signal(signal.SIGTERM)
        assert self._process is not None
        try:
            async with asyncio.timeout(30):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def hold(self) -> None:
        """Leave it down from its next death until `free`."""
        self._free.clear()

    def free(self) -> None:
        """Start it again when it is down, now and later."""
        self._free.set()

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when it does not run."""
        if self._process is None or self._process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
            return True
        return False

    async def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            await self._free.wait()
            await asyncio.sleep(0.2)  # as the supervisor waits after a first death
            await self._start()
