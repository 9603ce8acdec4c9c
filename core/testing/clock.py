"""Time that only moves when a test says so, and a signal for those that wait for something to change.

Whatever waits on a `ManualClock` waits for the clock or for data, never for the wall: a test can't be slow, and can't be
right by luck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tailrace.core.clock import SECOND, to_us

#: 2026-01-02T03:04:05Z: a date like any other, far from zero.
START_US = 1_767_323_045 * SECOND


class Signal:
    """Wakes everything that waits for a change. Belongs to one event loop."""

    def __init__(self) -> None:
        # In order: who waits first is woken first, each time a test runs.
        self._waiting: dict[asyncio.Future[None], None] = {}

    def wake(self) -> None:
        """Let all that wait look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self) -> None:
        """Return at the next `wake`."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = None
        try:
            await waiting
        finally:
            del self._waiting[waiting]


class ManualClock:
    """Microseconds since the epoch, moved by hand."""

    def __init__(self, now_us: int = START_US) -> None:
        self._now_us = now_us
        self._listeners: list[Callable[[], None]] = []
        self._moved = Signal()

    def now(self) -> int:
        """The time, in microseconds since the epoch."""
        return self._now_us

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; below zero it is a clock that was set back."""
        self._now_us += to_us(seconds)
        self._moved.wake()
        for listener in self._listeners:
            listener()

    def on_move(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each move."""
        self._listeners.append(listener)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has moved on by `seconds`."""
        until = self._now_us + to_us(seconds)
        while self._now_us < until:
            await self._moved.wait()


async def settle(turns: int = 20) -> None:
    """Let everything that can run do so, until it waits for something."""
    for _ in range(turns):
        await asyncio.sleep(0)
