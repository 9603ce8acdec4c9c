"""What a stretch of the log says: how many events there were, of what size, and how long the runs took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Head, RawEntry

#: Log entries read at a time.
PAGE = 1000


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Events of all partitions, their bytes (names and values of the fields), and the runs that both began and completed.

    A run's latency is from the entry of its creation to that of its end, in milliseconds: that is how fine entry ids are.
    """

    events: int
    bytes: int
    latencies_ms: list[float]


async def heads(store: RedisStore) -> list[Head]:
    """Where the log of each partition ends now."""
    return [await store.head(partition) for partition in range(store.partitions)]


async def logged_since(store: RedisStore, begin: Sequence[Head]) -> Stretch:
    """What was appended after `begin`."""
    entries: list[RawEntry] = []
    for partition, head in enumerate(begin):
        after = head.last_entry_id
        while page := await store.read_log(partition, after, count=PAGE):
            entries += page
            after = page[-1].entry_id
    return summary(entries)


def summary(entries: Iterable[RawEntry]) -> Stretch:
    """The entries of one stretch; those of each run in their order."""
    created: dict[str, int] = {}
    latencies: list[float] = []
    count = size = 0
    for entry in entries:
        count += 1
        size += entry_bytes(entry)
        at_ms = int(entry.entry_id.partition("-")[0])
        if entry.type == "WorkflowCreated":
            created[entry.workflow_id] = at_ms
        elif entry.type == "WorkflowCompleted" and entry.workflow_id in created:
            latencies.append(float(at_ms - created[entry.workflow_id]))
    return Stretch(events=count, bytes=size, latencies_ms=latencies)


def fields(entry: RawEntry) -> list[tuple[str, bytes]]:
    """The entry's fields as they stand in the log."""
    return [
        ("type", entry.type.encode()),
        ("workflow", entry.workflow_id.encode()),
        ("version", str(entry.version).encode()),
        ("seq", str(entry.seq).encode()),
        ("traceparent", entry.traceparent.encode()),
        ("data", entry.data),
    ]


def entry_bytes(entry: RawEntry) -> int:
    """Names and values of the entry's fields."""
    return sum(len(name) + len(value) for name, value in fields(entry))
