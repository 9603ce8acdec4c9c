"""Lag: how far the read models are behind the log, in events and in time.

The time is the age of the oldest event that was not applied, by the store's clock. A log that rests for a day and goes on
is not a day behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.core.clock import SECOND
from tailrace.core.store.port import WorkflowStore
from tailrace.projections.checkpoints import Place
from tailrace.projections.rows import CheckpointRow

_MILLISECOND: Final = 1000


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """A projection in a partition: `events` of the log up to `head` were not applied, the oldest of them for `seconds`."""

    projection: str
    partition: int
    head: int
    events: int
    seconds: float


async def measure_lag(store: WorkflowStore, rows: Sequence[CheckpointRow]) -> list[Lag]:
    """The lag of each row, in their order. Raises what the store raises."""
    now = await store.now()
    partitions = sorted({row.partition for row in rows if row.partition < store.partitions})
    heads = {partition: (await store.head(partition)).seq for partition in partitions}
    ages: dict[tuple[int, Place], float] = {}
    found = []
    for row in rows:
        head = heads.get(row.partition, row.seq)
        key = row.partition, Place(position=row.position, seq=row.seq)
        if row.seq < head and key not in ages:
            ages[key] = await _age(store, row, now)
        found.append(
            Lag(
                projection=row.projection,
                partition=row.partition,
                head=head,
                events=max(0, head - row.seq),
                seconds=ages.get(key, 0.0),
            )
        )
    return found


async def _age(store: WorkflowStore, row: CheckpointRow, now: int) -> float:
    """Seconds since the event behind a checkpoint; of what was trimmed the first that is left, 0 when there is none."""
    following = await store.read_log(row.partition, row.position, count=1)
    if not following:
        return 0.0
    milliseconds = int(following[0].entry_id.partition("-")[0])
    return max(0, now - milliseconds * _MILLISECOND) / SECOND
