"""What goes into a stream: the history of a run and its future, or the events of all runs from a cursor on.

The seam: first the history is read to where the run stands; then the feed is subscribed; then what came in between is read;
then the feed is followed. Entries are joined by version (one run) or by `seq` (a partition), so nothing is lost or doubled.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from tailrace.core.errors import ReadModelUnavailable
from tailrace.core.events import TERMINAL
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import Head, WorkflowStore
from tailrace.gateway import cursors
from tailrace.gateway.cloudevents import TYPE_PREFIX, Item, source_of
from tailrace.gateway.cursors import LogCursor, Position, RunCursor
from tailrace.gateway.feed import Subscription
from tailrace.gateway.history import History, Missing, RunStatus
from tailrace.gateway.services import Services
from tailrace.gateway.sse import EventStream, Gap, Interrupted, event_frame

LOG_PAGE: Final = 500


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of all runs a client wants."""

    workflow_id: str | None = None
    types: frozenset[str] = frozenset()

    def wants(self, item: Item) -> bool:
        """True for an event that is not filtered out."""
        entry = item.entry
        return (self.workflow_id in {None, entry.workflow_id}) and (not self.types or entry.type in self.types)

    @classmethod
    def read(cls, workflow_id: str | None, types: Sequence[str]) -> Filter:
        """From a query; a type may be given with or without its prefix."""
        names = (name.strip().removeprefix(TYPE_PREFIX) for given in types for name in given.split(","))
        return cls(workflow_id=workflow_id, types=frozenset(filter(None, names)))


class RunStream:
    """The events of one run, from a cursor to its end."""

    def __init__(self, services: Services, run: RunStatus, epoch: str, cursor: RunCursor) -> None:
        self._services = services
        self._history = History(services.store, services.queries)
        self._run = run
        self._epoch = epoch
        self._cursor = cursor
        self._version = cursor.version
        self._entry_id = cursor.entry_id
        self._ended = False

    async def write(self, stream: EventStream) -> None:
        """Write until the run has ended, the client is gone or the gateway stops."""
        gap = self._gap_at_cursor()
        if gap is not None:
            await stream.gap(gap)
            self._version, self._entry_id = 0, ""
        await self._write_history(stream)
        if self._run.ended or not self._run.live:
            return
        async with self._services.feed.subscribe([self._run.partition], self._run.workflow_id) as subscription:
            # What was appended before the subscription began is in the run's version by now.
            self._run = await self._history.status(self._run.workflow_id)
            await self._write_history(stream)
            if not self._ended:
                await self._follow(stream, subscription)

    def _gap_at_cursor(self) -> Gap | None:
        """Why the run can't be told from the cursor on; None when it can."""
        if self._cursor.epoch not in {"", self._epoch}:
            return Gap(reason="other-log", detail="the cursor is of another log; the run is told from its start")
        if self._version > self._run.version:
            detail = f"the log went back from version {self._version} to {self._run.version}"
            return Gap(reason="log-went-back", detail=f"{detail}; the run is told from its start")
        return None

    async def _write_history(self, stream: EventStream) -> None:
        async for page in self._history.read(self._run, self._version, entry_id=self._entry_id):
            if isinstance(page, Missing):
                await self._tell_missing(stream, page)
            else:
                for entry in page:
                    await self._write_item(stream, Item(entry, source_of(self._services.store)))
            await stream.flush()
        self._ended = self._run.ended

    async def _follow(self, stream: EventStream, subscription: Subscription) -> None:
        while not self._ended:
            items = await subscription.take(self._services.settings.heartbeat_seconds)
            if not items:
                if subscription.closed is not None:
                    await interrupt(stream, subscription, self._services)
                await stream.heartbeat()
            for item in items:
                await self._write_live(stream, item)
            await stream.flush()

    async def _write_live(self, stream: EventStream, item: Item) -> None:
        version = item.entry.version
        if version <= self._version:
            return
        if version > self._version + 1:
            await self._tell_missing(stream, Missing(first=self._version + 1, last=version - 1, unavailable=False))
        await self._write_item(stream, item)
        self._ended = item.entry.type in TERMINAL

    async def _write_item(self, stream: EventStream, item: Item) -> None:
        self._version, self._entry_id = item.entry.version, item.entry.entry_id
        cursor = RunCursor(self._epoch, self._version, self._entry_id)
        await stream.send(event_frame(item, cursors.encode(cursor)))

    async def _tell_missing(self, stream: EventStream, missing: Missing) -> None:
        reason = "history-unavailable" if missing.unavailable else "history-gone"
        why = "the archive can't be asked now" if missing.unavailable else "neither the archive nor the log has them"
        await stream.gap(
            Gap(
                reason=reason,
                detail=f"versions {missing.first} to {missing.last} are not shown: {why}",
                workflow_id=self._run.workflow_id,
                first_version=missing.first,
                last_version=missing.last,
            )
        )
        self._version = max(self._version, missing.last)


class LogStream:
    """The events of all runs, from a cursor on or from now, without an end."""

    def __init__(self, services: Services, wanted: Filter, cursor: LogCursor | None) -> None:
        self._services = services
        self._store = services.store
        self._wanted = wanted
        self._cursor = cursor
        self._positions: dict[int, Position] = {}
        self._epoch = ""
        workflow_id = wanted.workflow_id
        self._partitions: Sequence[int] = (
            range(self._store.partitions)
            if workflow_id is None
            else [partition_of(workflow_id, self._store.partitions)]
        )

    async def begin(self) -> None:
        """Find the ends of the logs; raises `StoreUnavailable`."""
        heads = await heads_of(self._store)
        self._epoch = epoch_of(heads)
        self._positions = {number: Position(head.last_entry_id, head.seq) for number, head in enumerate(heads)}

    async def write(self, stream: EventStream) -> None:
        """Write until the client is gone or the gateway stops."""
        if self._cursor is not None:
            await self._resume(stream, self._cursor)
        async with self._services.feed.subscribe(self._partitions, self._wanted.workflow_id) as subscription:
            for partition, start in subscription.starts.items():
                await self._catch_up(stream, partition, start)
            await stream.flush()
            while True:
                items = await subscription.take(self._services.settings.heartbeat_seconds)
                if not items:
                    if subscription.closed is not None:
                        await interrupt(stream, subscription, self._services)
                    await stream.heartbeat()
                for item in items:
                    await self._write_item(stream, item)
                await stream.flush()

    async def _resume(self, stream: EventStream, cursor: LogCursor) -> None:
        """Go through what is in the logs before subscribing: a long way must not fill a queue."""
        if cursor.epoch != self._epoch:
            await stream.gap(
                Gap(reason="other-log", detail="the cursor is of another log; the stream goes on from now")
            )
            return
        ends = dict(self._positions)
        self._positions = dict(enumerate(cursor.positions))
        for partition in self._partitions:
            if self._positions[partition].seq > ends[partition].seq:
                await self._tell_gap(stream, partition, "the log went back behind the cursor")
                self._positions[partition] = ends[partition]
            await self._catch_up(stream, partition, ends[partition])
            await stream.flush()

    async def _catch_up(self, stream: EventStream, partition: int, end: Position) -> None:
        """Write what is between here and `end`: from the log, and what was trimmed there from the archive."""
        # By id and by seq: the id is exact while the log grows, the seq stays when the log was emptied.
        while (position := self._positions[partition]).is_before(end) or position.seq < end.seq:
            entries = await self._store.read_log(partition, position.entry_id, count=LOG_PAGE)
            first = entries[0].seq if entries else end.seq + 1
            if first > position.seq + 1:
                await self._catch_up_archived(stream, partition, first)
            elif first <= position.seq:
                await self._tell_gap(stream, partition, f"after seq {position.seq} the log has {first}")
                self._positions[partition] = Position(position.entry_id, first - 1)
            for entry in entries:
                await self._write_item(stream, Item(entry, source_of(self._store)))
            if not entries:
                self._positions[partition] = end

    async def _catch_up_archived(self, stream: EventStream, partition: int, before_seq: int) -> None:
        why = "they were trimmed, and the archive does not have them"
        try:
            while (seq := self._positions[partition].seq) + 1 < before_seq:
                page = await self._services.queries.log(partition, seq, min(LOG_PAGE, before_seq - 1 - seq))
                if not page or page[0].seq != seq + 1:
                    break
                for entry in page:
                    await self._write_item(stream, Item(entry, source_of(self._store)))
        except ReadModelUnavailable:
            why = "they were trimmed, and the archive can't be asked now"
        position = self._positions[partition]
        if position.seq + 1 < before_seq:
            await self._tell_gap(stream, partition, f"seq {position.seq + 1} to {before_seq - 1} are not shown: {why}")
            self._positions[partition] = Position(position.entry_id, before_seq - 1)

    async def _write_item(self, stream: EventStream, item: Item) -> None:
        entry = item.entry
        if entry.seq <= self._positions[entry.partition].seq:
            return
        self._positions[entry.partition] = Position(entry.entry_id, entry.seq)
        if self._wanted.wants(item):
            cursor = LogCursor(self._epoch, tuple(self._positions[number] for number in sorted(self._positions)))
            await stream.send(event_frame(item, cursors.encode(cursor)))

    async def _tell_gap(self, stream: EventStream, partition: int, detail: str) -> None:
        await stream.gap(Gap(reason="history-gone", detail=detail, partition=partition))


async def interrupt(stream: EventStream, subscription: Subscription, services: Services) -> NoReturn:
    """End a stream that has not reached its end, and say why; the client may resume from its cursor."""
    match subscription.closed:
        case "slow":
            services.metrics.slow_streams += 1
            await stream.gap(Gap(reason="slow-client", detail="too much was waiting; resume from the last id"))
        case "diverged":
            await stream.gap(Gap(reason="log-diverged", detail="the log does not continue; connect again"))
        case _:
            await stream.send(b": the gateway stops; connect again\n\n")
            await stream.flush()
    raise Interrupted


async def heads_of(store: WorkflowStore) -> list[Head]:
    """The ends of all partitions' logs."""
    return list(await asyncio.gather(*(store.head(partition) for partition in range(store.partitions))))


def epoch_of(heads: Sequence[Head]) -> str:
    """A short name for the epochs of several logs together."""
    return hashlib.sha256("\n".join(head.epoch for head in heads).encode()).hexdigest()[:8]
