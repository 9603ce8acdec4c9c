"""The reporter: what handlers say leaves in order, in batches, and is sent until it is durable.

One task sends, so that `started` is never overtaken by `completed`, and many reports share one round trip. A start waits a
moment for the next report about its task, which says the same; so a short task costs one report, not two. While the store is
away reports wait here; whether they still count when it is back is for the fence to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from tailrace.core.commands import Report
from tailrace.core.errors import TailraceError
from tailrace.core.store.port import Delivery, TaskQueue

log = logging.getLogger(__name__)

BATCH: Final = 128

#: How long a start waits for the next report about its task, in seconds: far below what anybody waits for.
START_LINGER_SECONDS: Final = 0.02
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Reporter:
    """Sends reports of one worker. `run` must be running for anything to leave."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._waiting: deque[tuple[Delivery, Report, str, asyncio.Future[bool]]] = deque()
        self._starts: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def start(self, delivery: Delivery, report: Report, traceparent: str) -> None:
        """Say that a task has begun: in a moment, unless another report about it is sent before."""
        self._forget_start(delivery)
        self._starts[_key(delivery)] = asyncio.get_running_loop().call_later(
            START_LINGER_SECONDS, self.send_nowait, delivery, report, traceparent
        )

    def send_nowait(self, delivery: Delivery, report: Report, traceparent: str) -> asyncio.Future[bool]:
        """Put a report in line. The future says whether the task was still ours when it arrived."""
        self._forget_start(delivery)
        sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, report, traceparent, sent))
        self._wake.set()
        return sent

    async def send(self, delivery: Delivery, report: Report, traceparent: str) -> bool:
        """Send a report and wait until it is durable, or known to be too late."""
        return await self.send_nowait(delivery, report, traceparent)

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            try:
                answers = await self._queue.report(
                    [(delivery, report, parent) for delivery, report, parent, _ in batch]
                )
            except TailraceError as error:
                wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                if not failures:
                    log.warning("%d reports wait: %s", len(self._waiting), error)
                failures += 1
                await asyncio.sleep(wait)
                continue
            failures = 0
            for (_, _, _, sent), answer in zip(batch, answers, strict=True):
                self._waiting.popleft()
                if not sent.done():
                    sent.set_result(answer)
            if not self._waiting:
                self._wake.clear()

    def _forget_start(self, delivery: Delivery) -> None:
        if (start := self._starts.pop(_key(delivery), None)) is not None:
            start.cancel()


def _key(delivery: Delivery) -> tuple[str, str]:
    return delivery.stream, delivery.entry_id
