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
from itertools import islice
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
    """A report in line, as the queue takes it. `sent`, if anybody asks, will say whether the task was still ours then."""

    report: tuple[Delivery, Report, str]
    sent: asyncio.Future[bool] | None


class Reporter:
    """Sends reports of one worker. `run` must be running for anything to leave."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._waiting: deque[_Waiting] = deque()
        #: What waits of starts, oldest first, and until when by the loop's clock. By the delivery's identity: what a handler
        #: says that lost its task must not stand for the start of the next one.
        self._starts: dict[int, tuple[float, _Waiting]] = {}
        self._starting: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def start(self, delivery: Delivery, report: Report, traceparent: str) -> None:
        """Say that a task has begun: in a moment, unless another report about it is sent before."""
        waiting = _Waiting((delivery, report, traceparent), None)
        self._starts[id(delivery)] = (self._loop.time() + START_LINGER_SECONDS, waiting)
        if self._starting is None:
            self._starting = self._loop.call_later(START_LINGER_SECONDS, self._send_starts)

    def send_nowait(self, delivery: Delivery, report: Report, traceparent: str) -> asyncio.Future[bool]:
        """Put a report in line. The future says whether the task was still ours when it arrived."""
        self._starts.pop(id(delivery), None)
        sent: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(_Waiting((delivery, report, traceparent), sent))
        self._wake.set()
        return sent

    def _send_starts(self) -> None:
        """Put the starts in line that have waited; one timer is for all of them, because few wait until it rings."""
        self._starting = None
        for key, (until, waiting) in list(self._starts.items()):
            rest = until - self._loop.time()
            if rest > 0:
                self._starting = self._loop.call_later(rest, self._send_starts)
                break
            del self._starts[key]
            self._waiting.append(waiting)
            self._wake.set()

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            batch = list(islice(self._waiting, BATCH))
            problem: TailraceError | None = None
            try:
                answers = await self._queue.report([item.report for item in batch])
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
                log.error("a report of %s is dropped: %s", item.report[1].task_id, answer)
                answer = False  # noqa: PLW2901
            if isinstance(answer, TailraceError):
                problem = answer
                self._waiting.append(item)
            elif item.sent is not None and not item.sent.done():
                item.sent.set_result(answer)
        return problem
