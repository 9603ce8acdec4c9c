"""The feed: one reader per partition and process at the end of the log, fanned out to whoever listens.

A reader runs only while somebody listens to its partition. What a subscriber has not taken waits in a queue of bounded
length; one that falls behind is cut off (`slow`) and resumes from its cursor. A log that does not continue where the reader
stood ends every subscription (`diverged`): nothing is skipped silently.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Final, Literal

from tailrace.core.errors import LogDiverged, StoreUnavailable
from tailrace.core.store.port import Head, RawEntry, WorkflowStore
from tailrace.gateway.cloudevents import Item
from tailrace.gateway.cursors import Position

log = logging.getLogger(__name__)

Closed = Literal["slow", "diverged", "shutdown"]

READ_COUNT: Final = 512
BLOCK_SECONDS: Final = 2.0
_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class Subscription:
    """One listener. `starts` says, per partition, behind which position everything is delivered."""

    def __init__(self, workflow_id: str | None, limit: int) -> None:
        self.workflow_id = workflow_id
        self.starts: dict[int, Position] = {}
        self.epochs: dict[int, str] = {}
        self.closed: Closed | None = None
        self._limit = limit
        self._items: deque[Item] = deque()
        self._wake = asyncio.Event()

    def offer(self, item: Item) -> None:
        """Queue an item; a full queue ends the subscription."""
        if self.closed is not None:
            return
        if len(self._items) >= self._limit:
            self.close("slow")
            return
        self._items.append(item)
        self._wake.set()

    def close(self, reason: Closed) -> None:
        """End the subscription. A slow listener loses what is queued: its cursor is where it goes on."""
        if self.closed is None:
            self.closed = reason
            if reason == "slow":
                self._items.clear()
            self._wake.set()

    async def take(self, timeout_seconds: float) -> list[Item]:
        """All that waits, at least one item; nothing after `timeout_seconds`, or once the subscription is closed."""
        if not self._items and self.closed is None:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._wake.wait()
            except TimeoutError:
                return []
        items = list(self._items)
        self._items.clear()
        return items


class _Listeners:
    """Subscriptions, found by workflow: an event looks only at those that want it."""

    def __init__(self) -> None:
        self._by_workflow: dict[str | None, dict[Subscription, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_workflow)

    def __iter__(self) -> Iterator[Subscription]:
        return chain.from_iterable(self._by_workflow.values())

    def add(self, subscription: Subscription) -> None:
        self._by_workflow.setdefault(subscription.workflow_id, {})[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        group = self._by_workflow.get(subscription.workflow_id, {})
        group.pop(subscription, None)
        if not group:
            self._by_workflow.pop(subscription.workflow_id, None)

    def wanting(self, workflow_id: str) -> Iterator[Subscription]:
        return chain(self._by_workflow.get(None, ()), self._by_workflow.get(workflow_id, ()))

    def close(self, reason: Closed) -> None:
        for subscription in self:
            subscription.close(reason)
        self._by_workflow.clear()


class _Tail:
    """The reader of one partition."""

    def __init__(self, store: WorkflowStore, partition: int, source: str) -> None:
        self._store = store
        self._partition = partition
        self._source = source
        self._position = Position()
        self._epoch = ""
        self._at_end = asyncio.Event()
        self._listeners = _Listeners()
        self._task: asyncio.Task[None] | None = None

    @property
    def reads(self) -> bool:
        """True while somebody listens and the end of the log is known."""
        return self._task is not None and self._at_end.is_set()

    async def join(self, subscription: Subscription, timeout_seconds: float) -> None:
        """Deliver everything from here on to `subscription`; raises `StoreUnavailable` when the end can't be found."""
        self._listeners.add(subscription)
        if self._task is None:
            self._at_end.clear()
            self._task = asyncio.create_task(self._run(), name=f"feed-{self._partition}")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._at_end.wait()
        except TimeoutError:
            raise StoreUnavailable(f"the log of partition {self._partition} can't be read") from None
        if subscription.closed is not None:
            return
        subscription.starts[self._partition] = self._position
        subscription.epochs[self._partition] = self._epoch

    def leave(self, subscription: Subscription) -> None:
        self._listeners.remove(subscription)

    async def close(self) -> None:
        self._end_all("shutdown")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        try:
            while self._listeners:
                try:
                    await self._read_once()
                    failures = 0
                except StoreUnavailable as error:
                    wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                    failures += 1
                    log.warning("feed of partition %d: %s; trying again in %.1f s", self._partition, error, wait)
                    await asyncio.sleep(wait)
                except LogDiverged as error:
                    log.warning("feed: %s; its streams are ended", error)
                    self._end_all("diverged")
        except Exception:
            log.exception("the feed of partition %d failed; its streams are ended", self._partition)
            self._end_all("diverged")
        finally:
            # No await between the last look at the subscriptions and here: whoever joins now starts a new reader.
            self._task = None

    async def _read_once(self) -> None:
        if not self._at_end.is_set():
            self._begin(await self._store.head(self._partition))
        entries = await self._store.read_log(
            self._partition, self._position.entry_id, count=READ_COUNT, block_seconds=BLOCK_SECONDS
        )
        if entries:
            self._deliver(entries)
        else:
            self._check(await self._store.head(self._partition))

    def _begin(self, head: Head) -> None:
        self._position = Position(head.last_entry_id, head.seq)
        self._epoch = head.epoch
        self._at_end.set()

    def _deliver(self, entries: Sequence[RawEntry]) -> None:
        for entry in entries:
            if entry.seq != self._position.seq + 1:
                raise LogDiverged(self._partition, f"seq {entry.seq} follows {self._position.seq}")
            self._position = Position(entry.entry_id, entry.seq)
            item = Item(entry, self._source)
            for subscription in self._listeners.wanting(entry.workflow_id):
                subscription.offer(item)

    def _check(self, head: Head) -> None:
        """A quiet log is looked at: one that was cut back would stay quiet for ever."""
        if head.epoch != self._epoch or head.seq < self._position.seq:
            raise LogDiverged(self._partition, f"seq went back from {self._position.seq} to {head.seq}")

    def _end_all(self, reason: Closed) -> None:
        self._listeners.close(reason)
        # Wakes those that are just joining: they see that they were closed.
        self._at_end.set()
        self._at_end.clear()


class Feed:
    """The readers of all partitions."""

    def __init__(self, store: WorkflowStore, *, source: str, queue_limit: int, timeout_seconds: float) -> None:
        self._tails = [_Tail(store, partition, source) for partition in range(store.partitions)]
        self._queue_limit = queue_limit
        self._timeout_seconds = timeout_seconds
        self._closed = False

    @property
    def listening(self) -> int:
        """How many partitions are read now."""
        return sum(tail.reads for tail in self._tails)

    @asynccontextmanager
    async def subscribe(self, partitions: Iterable[int], workflow_id: str | None = None) -> AsyncIterator[Subscription]:
        """Listen to some partitions, or to one workflow in its partition; raises `StoreUnavailable`."""
        subscription = Subscription(workflow_id, self._queue_limit)
        tails = [self._tails[partition] for partition in partitions]
        if self._closed:
            subscription.close("shutdown")
        try:
            for tail in tails:
                if subscription.closed is None:
                    await tail.join(subscription, self._timeout_seconds)
            yield subscription
        finally:
            for tail in tails:
                tail.leave(subscription)

    async def close(self) -> None:
        """End all subscriptions and readers."""
        self._closed = True
        for tail in self._tails:
            await tail.close()
