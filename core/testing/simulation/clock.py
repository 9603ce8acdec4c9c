"""The store's clock in a simulation: it goes with the loop's time, and may be set forth and back."""

from __future__ import annotations

import asyncio

from tailrace.core.clock import to_us
from tailrace.core.testing.clock import ManualClock


class SimulatedClock(ManualClock):
    """Microseconds since the epoch; `advance` is a clock that somebody set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._begun = loop.time()

    def now(self) -> int:
        return super().now() + to_us(self._loop.time() - self._begun)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
