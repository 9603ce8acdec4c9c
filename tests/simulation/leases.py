"""Drives a worker's renewals from the event loop, because a simulation has no threads."""

from __future__ import annotations

import asyncio

from tailrace.agents.leases import LeaseRounds


class LoopLeases:
    """Rounds at the loop's time, in the process that made them."""

    def __init__(self, rounds: LeaseRounds) -> None:
        self._rounds = rounds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """The first round is at once, as it is on a thread."""
        self._loop.call_soon(self._next)

    def stop(self) -> None:
        """No further round."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._rounds.close()

    def _next(self) -> None:
        wait = None if self._stopped else self._rounds.next()
        if wait is not None:
            self._timer = self._loop.call_later(wait, self._next)
