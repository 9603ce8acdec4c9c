"""What tasks may read of their runs: given along, or read for all tasks that begin at the same moment in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tailrace.core.errors import StoreCorrupt, TailraceError
from tailrace.core.store.inputs import input_of
from tailrace.core.store.port import TaskMessage, TaskQueue

_Wanted = tuple[TaskMessage, asyncio.Future[dict[str, Any]]]


def at_hand(message: TaskMessage) -> dict[str, Any] | None:
    """What was given along; None when it has to be read."""
    given = message.given
    return None if given is None else input_of(message, given, given.outputs)


class Inputs:
    """Reads inputs for the handlers of one worker. `run` must be running for anything to be read."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._wanted: list[_Wanted] = []
        self._wake = asyncio.Event()

    async def read(self, message: TaskMessage) -> dict[str, Any]:
        """As `TaskInput` takes it; raises `StoreUnavailable`, and `StoreCorrupt` when the run's request is not there."""
        found: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._wanted.append((message, found))
        self._wake.set()
        return await found

    async def run(self) -> None:
        """Read what is wanted, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted, self._wanted = self._wanted, []
            if not await self._read(wanted):
                # One run that is broken is no reason for its neighbours to fail.
                for each in wanted:
                    await self._read([each])

    async def _read(self, wanted: Sequence[_Wanted]) -> bool:
        """Answer all of them, with inputs or with the error; False, and no answer, when the error may be that of another."""
        try:
            inputs = await self._queue.inputs([message for message, _ in wanted])
        except TailraceError as error:
            if isinstance(error, StoreCorrupt) and len(wanted) > 1:
                return False
            for _, found in wanted:
                if not found.done():
                    found.set_exception(error)
        else:
            for (_, found), value in zip(wanted, inputs, strict=True):
                if not found.done():
                    found.set_result(value)
        return True
