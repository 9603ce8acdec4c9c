"""A program that runs under a guard: it, and all it started, end when its handler or this process does.

Invariants: its output is always read; `stop` and `wait` leave no process behind, also when they are cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tailrace.agents.workspace.capture import Capture
from tailrace.core.errors import TaskError

T = TypeVar("T")

GUARD = str(Path(__file__).with_name("guard.py"))
REAP_SECONDS = 6.0
"""How long a guard may take to kill and collect everything; afterwards it is killed itself."""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended. A code above 128 is 128 plus the number of the signal that ended it."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    duration_seconds: float

    @property
    def ok(self) -> bool:
        """True if the program ended with 0."""
        return self.exit_code == 0

    def tail(self, characters: int = 1500) -> str:
        """The last output, standard error last: what a person reads first when it failed."""
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)[-characters:]


class Process:
    """A running program. Made by `start`; ends by `wait` (on its own) or `stop`."""

    def __init__(
        self, argv: tuple[str, ...], guard: asyncio.subprocess.Process, lifeline: int, output_limit_bytes: int
    ) -> None:
        assert guard.stdout is not None
        assert guard.stderr is not None
        self.argv = argv
        self._guard = guard
        self._lifeline: int | None = lifeline
        self._started = time.monotonic()
        self._stdout = Capture(output_limit_bytes)
        self._stderr = Capture(output_limit_bytes)
        self._ended = asyncio.ensure_future(self._collect(guard.stdout, guard.stderr))

    @classmethod
    async def start(cls, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], output_limit_bytes: int) -> Process:
        """Start a program; raises `TaskError` with reason `program-missing` if there is none of that name."""
        command = tuple(argv)
        if shutil.which(command[0], path=env.get("PATH")) is None:
            raise TaskError("program-missing", f"{command[0]!r} is not installed here", details={"program": command[0]})
        read_end, lifeline = os.pipe()
        spawn = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", GUARD, *command,
                stdin=read_end, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                cwd=cwd, env=dict(env), start_new_session=True,
            )
        )  # fmt: skip
        try:
            # Once begun, starting is not interrupted: a half-started program would belong to nobody.
            guard = await finish(spawn)
        except BaseException:
            os.close(lifeline)
            if not spawn.cancelled() and spawn.exception() is None:
                await cls(command, spawn.result(), os.open(os.devnull, os.O_WRONLY), 1024).stop()
            raise
        finally:
            os.close(read_end)
        return cls(command, guard, lifeline, output_limit_bytes)

    @property
    def pid(self) -> int:
        """The guard's process id: signal it, and the program gets SIGTERM."""
        return self._guard.pid

    @property
    def running(self) -> bool:
        """True until the program has ended and its output was read."""
        return not self._ended.done()

    def output(self, characters: int = 1500) -> str:
        """The last of what the program has written so far."""
        return self._result(0).tail(characters)

    async def wait(self) -> RunResult:
        """Wait for the program's own end. Cancelling the wait leaves the program running: call `stop`."""
        return self._result(await asyncio.shield(self._ended))

    async def stop(self, *, grace_seconds: float = 0.0) -> RunResult:
        """End the program and everything it started, by SIGTERM first if there is grace. Safe to call again."""
        if grace_seconds > 0 and self._lifeline is not None and self.running:
            try:
                with contextlib.suppress(OSError):
                    os.write(self._lifeline, b"T")
                await asyncio.wait([self._ended], timeout=grace_seconds)
            except asyncio.CancelledError:
                await self.stop()
                raise
        self._release()
        return self._result(await finish(asyncio.ensure_future(self._reaped())))

    def _release(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def _reaped(self) -> int:
        done, _ = await asyncio.wait([self._ended], timeout=REAP_SECONDS)
        if not done:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
        return await self._ended

    async def _collect(self, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> int:
        readers = [asyncio.ensure_future(self._stdout.drain(stdout)), asyncio.ensure_future(self._stderr.drain(stderr))]
        try:
            code = await self._guard.wait()
            # Nothing writes any more once the guard has swept; what escaped it (another user's) is not waited for.
            await asyncio.wait(readers, timeout=1.0)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            self._release()
        return code

    def _result(self, code: int) -> RunResult:
        return RunResult(
            argv=self.argv,
            exit_code=code if code >= 0 else 128 - code,
            stdout=self._stdout.text(),
            stderr=self._stderr.text(),
            truncated=self._stdout.truncated or self._stderr.truncated,
            duration_seconds=round(time.monotonic() - self._started, 3),
        )


async def finish(future: asyncio.Future[T]) -> T:
    """Wait until `future` is done even if cancelled meanwhile; the cancellation is raised afterwards."""
    interrupted: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            interrupted = error
        except Exception:  # noqa: BLE001, S110 - raised again by result()
            pass
    if interrupted is not None:
        raise interrupted
    return future.result()
