"""Forgetting in memory: the beginning of a log, and what is known of runs that ended long ago."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.core.errors import LogDiverged
from tailrace.core.store.memory.partition import Partition, Run
from tailrace.core.store.memory.streams import read_id
from tailrace.core.store.retention import EndedRun, LogPlace


def trim_log(partition: Partition, first: LogPlace, count: int) -> int:
    """Remove the oldest entries before `first`, at most `count`; raises `LogDiverged`."""
    log, place = partition.log, read_id(first.entry_id)
    oldest = log.oldest()
    if oldest is None or oldest > place:
        return 0
    entry = log.entries.get(place)
    if entry is None or entry.seq != first.seq:
        raise LogDiverged(
            partition.number, f"it does not hold entry {first.entry_id} as number {first.seq}; nothing was trimmed"
        )
    return log.trim(place, count)


def expire_runs(partition: Partition, runs: Sequence[EndedRun]) -> int:
    """Leave a tombstone of each run that has ended at that version."""
    expired = 0
    for ended in runs:
        run = partition.runs.get(ended.workflow_id)
        if run is None or run.is_tombstone or run.version != ended.version:
            continue
        if ended.workflow_id not in partition.expectations:
            partition.runs[ended.workflow_id] = Run(version=run.version, state=b"", created=b"")
            expired += 1
    return expired
