"""What lies between one process and the store. Each call passes here, and here it is lost, late, repeated, or the last one.

The effect of a call on the store is one step; requests and replies take time, and between them the process may die.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from tailrace.core.errors import StoreUnavailable, TailraceError
from tailrace.core.testing.clock import Signal
from tailrace.core.testing.simulation.faults import Faults
from tailrace.core.testing.simulation.loop import Process, ProcessDied, SimulatedLoop
from tailrace.core.testing.simulation.trace import Trace

T = TypeVar("T")
Effect = Callable[[], Awaitable[T]]
Summary = Callable[[Any], tuple[Any, ...]]


def _silent(result: Any) -> tuple[Any, ...]:
    return ()


class Wire:
    """The connections of one process. `changed` wakes calls that wait for data."""

    def __init__(self, loop: SimulatedLoop, process: Process, faults: Faults, trace: Trace, changed: Signal) -> None:
        self.process = process
        self.faults = faults
        self.trace = trace
        self._loop = loop
        self._changed = changed

    async def call(self, operation: str, effect: Effect[T], summary: Summary = _silent) -> T:
        """Carry out a call; `summary` gives the parts of its result that belong into the trace."""
        faults = self.faults
        await self._pass(f"{self.process.kind}.{operation}.before")
        fault = faults.strike(operation)
        wait = faults.delay() if fault == "delay" else faults.latency()
        if wait:
            await asyncio.sleep(wait)
        if fault == "late-effect":
            self._loop.spawn(self._loop.world, self._later(operation, effect, summary), name=f"late {operation}")
        if fault in {"lost-request", "late-effect"} or faults.outages or faults.over:
            self.trace.add(self.process.name, operation, fault or "unavailable")
            raise StoreUnavailable(f"{operation}: no answer")
        result = await effect()
        self._note(operation, fault, summary(result))
        await self._pass(f"{self.process.kind}.{operation}.after")
        if fault == "twice":
            result = await effect()
            self._note(operation, "again", summary(result))
        if wait := faults.latency():
            await asyncio.sleep(wait)
        if fault == "lost-reply" or faults.outages:
            raise StoreUnavailable(f"{operation}: no answer")
        return result

    async def call_blocking(
        self, operation: str, effect: Effect[list[T]], block_seconds: float, summary: Summary = _silent
    ) -> list[T]:
        """A call that waits up to `block_seconds` for a result that is not empty."""

        async def waiting() -> list[T]:
            result = await effect()
            if result or block_seconds <= 0:
                return result
            with suppress(TimeoutError):
                async with asyncio.timeout(block_seconds):
                    while not result:
                        await self._changed.wait()
                        if self.faults.outages or self.faults.over:
                            raise StoreUnavailable(f"{operation}: the connection is gone")
                        result = await effect()
            return result

        return await self.call(operation, waiting, summary)

    def call_nowait(self, operation: str, effect: Callable[[], T], summary: Summary = _silent) -> T:
        """A call of a thread of its own: what delays it is that the whole process stands still."""
        self._pass_nowait(f"{self.process.kind}.{operation}.before")
        fault = self.faults.strike(operation)
        if fault in {"lost-request", "late-effect"} or self.faults.outages or self.faults.over:
            self.trace.add(self.process.name, operation, fault or "unavailable")
            raise StoreUnavailable(f"{operation}: no answer")
        result = effect()
        self._note(operation, fault, summary(result))
        self._pass_nowait(f"{self.process.kind}.{operation}.after")
        if fault == "twice":
            result = effect()
            self._note(operation, "again", summary(result))
        if fault == "lost-reply":
            raise StoreUnavailable(f"{operation}: no answer")
        return result

    def _note(self, operation: str, fault: str | None, parts: tuple[Any, ...]) -> None:
        if parts or fault:
            self.trace.add(self.process.name, operation, *parts, fault or "")

    async def _later(self, operation: str, effect: Effect[T], summary: Summary) -> None:
        """The request was under way when its sender gave up, and arrives."""
        await asyncio.sleep(self.faults.delay())
        if not self.faults.outages and not self.faults.over:
            with suppress(TailraceError):
                self._note(operation, "arrives late", summary(await effect()))

    async def _pass(self, point: str) -> None:
        if self.faults.is_fatal(point):
            self._loop.kill(self.process, point)
            # Nothing of this process runs again: this is where its code ends.
            await self._loop.create_future()

    def _pass_nowait(self, point: str) -> None:
        if self.faults.is_fatal(point):
            self._loop.kill(self.process, point)
            raise ProcessDied(point)
