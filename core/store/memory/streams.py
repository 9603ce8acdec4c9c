"""Streams in memory, with the parts of Redis Streams that the guarantees rest on.

Entry ids `<ms>-<n>` grow strictly, whatever the clock does. A task stream has one group: what was delivered, to whom, how
often and how long ago. An entry that was deleted from the stream stays pending, as it does in Redis.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from tailrace.core.errors import InvalidInput
from tailrace.core.store.port import TaskMessage

EntryId = tuple[int, int]
ValueT = TypeVar("ValueT")

ZERO: Final[EntryId] = (0, 0)

#: Holds what was handed back: claimable at once.
RELEASED: Final = "~released"


def spell(entry_id: EntryId) -> str:
    """`<ms>-<n>`."""
    return f"{entry_id[0]}-{entry_id[1]}"


def read_id(text: str) -> EntryId:
    """Read an entry id back; raises `InvalidInput`."""
    milliseconds, _, number = text.partition("-")
    try:
        return int(milliseconds), int(number)
    except ValueError:
        raise InvalidInput(f"{text!r} is not an entry id") from None


class Stream(Generic[ValueT]):
    """Entries under strictly growing ids."""

    def __init__(self) -> None:
        self.entries: dict[EntryId, ValueT] = {}
        self.last: EntryId = ZERO
        self._ids: list[EntryId] = []

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, value: ValueT, now_us: int) -> EntryId:
        """Append an entry. A clock that was set back does not make ids fall."""
        milliseconds = now_us // 1000
        last = self.last
        self.last = (milliseconds, 0) if milliseconds > last[0] else (last[0], last[1] + 1)
        self.entries[self.last] = value
        self._ids.append(self.last)
        return self.last

    def delete(self, entry_id: EntryId) -> bool:
        """Remove an entry; False when it was not there."""
        if self.entries.pop(entry_id, None) is None:
            return False
        del self._ids[bisect_left(self._ids, entry_id)]
        return True

    def trim(self, before: EntryId, count: int) -> int:
        """Remove the oldest entries before `before`, at most `count`; gives how many."""
        gone = self._ids[: min(count, bisect_left(self._ids, before))]
        del self._ids[: len(gone)]
        for entry_id in gone:
            del self.entries[entry_id]
        return len(gone)

    def after(self, entry_id: EntryId, count: int | None = None) -> list[EntryId]:
        """Ids behind `entry_id`, oldest first."""
        start = bisect_right(self._ids, entry_id)
        return self._ids[start:] if count is None else self._ids[start : start + count]

    def oldest(self) -> EntryId | None:
        """The first entry's id."""
        return self._ids[0] if self._ids else None


@dataclass(slots=True, kw_only=True)
class TaskEntry:
    """A dispatched task as it stands in its stream."""

    message: TaskMessage
    traceparent: str


@dataclass(slots=True, kw_only=True)
class Pending:
    """Who holds an entry, since when (or since its last renewal), and how often it was delivered."""

    consumer: str
    since_us: int
    deliveries: int


@dataclass(slots=True, kw_only=True)
class TaskName:
    """What is remembered of an entry, so that it can be named when it is gone."""

    task_id: str
    workflow_id: str


@dataclass(slots=True)
class Group:
    """An agent's group on one stream.

    `marked` are entries of tasks that were closed while somebody held them; the end of those in `awaited` is told.
    """

    last_delivered: EntryId = ZERO
    pending: dict[EntryId, Pending] = field(default_factory=dict)
    marked: set[EntryId] = field(default_factory=set)
    awaited: set[EntryId] = field(default_factory=set)


class TaskStream(Stream[TaskEntry]):
    """The open tasks of one agent in one partition, of one priority."""

    def __init__(self, agent: str, *, urgent: bool) -> None:
        super().__init__()
        self.agent = agent
        self.urgent = urgent
        self.name = f"tasks:{agent}:high" if urgent else f"tasks:{agent}"
        self.has_group = False
        self.group = Group()
        self.names: dict[EntryId, TaskName] = {}

    def put(self, entry: TaskEntry, now_us: int) -> EntryId:
        """Add a task."""
        entry_id = self.add(entry, now_us)
        self.names[entry_id] = TaskName(task_id=entry.message.task_id, workflow_id=entry.message.workflow_id)
        return entry_id

    def queued(self) -> list[EntryId]:
        """What was never delivered, oldest first."""
        return self.after(self.group.last_delivered)

    def deliver(self, consumer: str, count: int, now_us: int) -> list[EntryId]:
        """Hand the oldest queued entries to `consumer`."""
        if not self.has_group or count <= 0:
            return []
        delivered = self.after(self.group.last_delivered, count)
        for entry_id in delivered:
            self.group.pending[entry_id] = Pending(consumer=consumer, since_us=now_us, deliveries=1)
            self.group.last_delivered = entry_id
        return delivered

    def hand_over(self, entry_id: EntryId, consumer: str, now_us: int) -> int:
        """Give a pending entry to `consumer`; returns its new delivery count."""
        pending = self.group.pending[entry_id]
        pending.consumer, pending.since_us = consumer, now_us
        pending.deliveries += 1
        return pending.deliveries

    def is_held(self, entry_id: EntryId, consumer: str, delivery: int) -> bool:
        """The fence: True when the pending list shows exactly that consumer and that delivery."""
        pending = self.group.pending.get(entry_id)
        return pending is not None and (pending.consumer, pending.deliveries) == (consumer, delivery)

    def is_acknowledged(self, entry_id: EntryId) -> bool:
        """True when the entry was delivered and is there, and nobody holds it: somebody acknowledged it behind our back."""
        return entry_id in self.entries and entry_id <= self.group.last_delivered and entry_id not in self.group.pending

    def remove(self, entry_id: EntryId) -> None:
        """Acknowledge and delete, with all that is known of the entry."""
        self.group.pending.pop(entry_id, None)
        self.group.marked.discard(entry_id)
        self.group.awaited.discard(entry_id)
        self.delete(entry_id)
        self.names.pop(entry_id, None)
