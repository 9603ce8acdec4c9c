"""Does the log continue where a reader stopped? Redis says nothing when it does not, so every reader asks.

A log goes back with a failover or a restored backup; it may be trimmed under a reader. `seq` is dense, so either the
entry at the checkpoint still exists, or the next one read is exactly the next in number. Else: `LogDiverged`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.core.errors import LogDiverged
from tailrace.core.store.port import Head, RawEntry
from tailrace.projections.checkpoints import BEGINNING, Place
from tailrace.projections.port import LogSource


def check_dense(partition: int, place: Place, entries: Sequence[RawEntry]) -> None:
    """Raise `LogDiverged` unless the entries number on from the place without a hole."""
    expected = place.seq
    for entry in entries:
        expected += 1
        if not entry.seq:
            raise LogDiverged(
                partition,
                f"entry {entry.entry_id} is no event: nobody but the engine writes to a log. Reading goes on when it is taken "
                "out of the stream (XDEL)",
            )
        if entry.seq != expected:
            raise LogDiverged(
                partition,
                f"behind entry {place.position} (number {place.seq}) comes {entry.entry_id} with number {entry.seq}, "
                f"not {expected}: the log {'was trimmed' if entry.seq > expected else 'went back'} under its reader",
            )


def check_epoch(partition: int, known: str | None, head: Head) -> None:
    """Raise `LogDiverged` when this is another log than the read model was built from."""
    if known and head.epoch and known != head.epoch:
        raise LogDiverged(partition, f"the log has epoch {head.epoch}, and the read model was built from epoch {known}")


async def check_resumes(log: LogSource, partition: int, place: Place, head: Head) -> None:
    """Raise `LogDiverged` when what is at the place can't be in the past of this log."""
    _check_head(partition, place, head)
    if place.seq in {0, head.seq} or await log.has_entry(partition, place.position):
        return
    following = await log.read_log(partition, place.position, count=1)
    if not following:
        raise LogDiverged(partition, f"entry {place.position} is gone, and nothing can be read behind it")
    check_dense(partition, place, following)


async def check_idle(log: LogSource, partition: int, place: Place, head: Head) -> None:
    """Raise `LogDiverged` when nothing could be read although the log should go on."""
    _check_head(partition, place, head)
    if head.seq > place.seq and not await log.read_log(partition, place.position, count=1):
        raise LogDiverged(
            partition,
            f"the log is at number {head.seq}, and nothing can be read behind {place.position} (number {place.seq})",
        )


def _check_head(partition: int, place: Place, head: Head) -> None:
    if head.seq < place.seq:
        raise LogDiverged(
            partition, f"the log went back: it ends at number {head.seq}, and {place.seq} was read before"
        )
    if head.seq == place.seq > 0 and head.last_entry_id not in {place.position, BEGINNING}:
        raise LogDiverged(
            partition,
            f"the log went back: number {head.seq} is entry {head.last_entry_id}, and {place.position} was read before",
        )
