"""The reporter: what handlers say leaves in order, in batches, and is sent until it is durable.

One task sends, so that `started` is never overtaken by `completed`, and many reports share one round trip. A start waits a
moment for the next report about its task, which says the same; so a short task costs one report, not two. While the store is
away reports wait here; whether they still count when it is back is for the fence to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput, TailraceError
from tailrace.core.store.port import Delivery, TaskQueue

log = logging.getLogger(__name__)

BATCH: Final = 128

#: How long a start waits for the next report about its task, in seconds: far below what anybody waits for.
START_LINGER_SECONDS: Final = 0.02
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class _Waiting(NamedTuple):
    """A report in line. `sent` will say whether the task was still ours when it arrived."""

    delivery: Delivery
    report: Report
    traceparent: str
    sent: asyncio.Future[bool]


class Reporter:
    """Sends reports of one worker. `run` must be running for anything to leave."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._waiting: deque[_Waiting] = deque()
        #: What waits of starts, oldest first, and until when by the loop's clock.
        self._starts: dict[tuple[str, str, int], tuple[float, _Waiting]] = {}
        self._starting: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

    def start(self, delivery: Delivery, report: Report, traceparent: str) -> None:
        """Say that a task has begun: in a moment, unless another report about it is sent before."""
        loop = asyncio.get_running_loop()
        key = _key(delivery)
        # (Taken out first: what waits is in the order in which it may leave.)
        self._starts.pop(key, None)
        waiting = _Waiting(delivery, report, traceparent, loop.create_future())
        self._starts[key] = (loop.time() + START_LINGER_SECONDS, waiting)
        if self._starting is None:
            self._starting = loop.call_later(START_LINGER_SECONDS, self._send_starts)

    def send_nowait(self, delivery: Delivery, report: Report, traceparent: str) -> asyncio.Future[bool]:
        """Put a report in line. The future says whether the task was still ours when it arrived."""
        self._starts.pop(_key(delivery), None)
        sent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(delivery, report, traceparent, sent))
        self._wake.set()
        return sent

    def _send_starts(self) -> None:
        """Put the starts in line that have waited; one timer is for all of them, because few wait until it rings."""
        loop = asyncio.get_running_loop()
        self._starting = None
        for key, (until, waiting) in list(self._starts.items()):
            rest = until - loop.time()
            if rest > 0:
                self._starting = loop.call_later(rest, self._send_starts)
                break
            del self._starts[key]
            self._waiting.append(waiting)
            self._wake.set()

    async def send(self, delivery: Delivery, report: Report, traceparent: str) -> bool:
        """Send a report and wait until it is durable, or known to be too late."""
        return await self.send_nowait(delivery, report, traceparent)

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            problem: TailraceError | None = None
            try:
                answers = await self._queue.report([(item.delivery, item.report, item.traceparent) for item in batch])
            except TailraceError as error:
                problem = error
            else:
                problem = self._take_answers(batch, answers)
            if problem is None:
                failures = 0
            else:
                if not failures:
                    log.warning("%d reports wait: %s", len(self._waiting), problem)
                await asyncio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                failures += 1
            if not self._waiting:
                self._wake.clear()

    def _take_answers(self, batch: Sequence[_Waiting], answers: Sequence[bool | TailraceError]) -> TailraceError | None:
        """Let those that were answered go; what could not be written waits behind all others. Gives the reason."""
        problem: TailraceError | None = None
        for item, answer in zip(batch, answers, strict=True):
            self._waiting.popleft()
            if isinstance(answer, InvalidInput):
                # It never can be: to its task it is as if it had come too late, and the lease decides.
                log.error("a report of %s is dropped: %s", item.report.task_id, answer)
                answer = False  # noqa: PLW2901
            if isinstance(answer, TailraceError):
                problem = answer
                self._waiting.append(item)
            elif not item.sent.done():
                item.sent.set_result(answer)
        return problem


def _key(delivery: Delivery) -> tuple[str, str, int]:
    # With the delivery: what a handler says that lost its task must not stand for the start of the next one.
    return delivery.stream, delivery.entry_id, delivery.delivery
