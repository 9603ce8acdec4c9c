"""Checkpoints: how far each projection has come in each partition.

Invariant: a checkpoint moves in the transaction that writes the rows, as its first statement, and only for the owner
whose epoch it carries. Whoever finds it moved or re-owned gives up. `confirmed` follows by synchronous commits; what
lies behind it is on disk, so the log may be trimmed there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.core.store.port import RawEntry
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import entry_time, text

_SQL = statements("checkpoints")

BEGINNING = "0-0"


class PartitionLost(Exception):
    """Somebody else owns the partition now; nothing was written."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a partition's log: the entry there, and its `seq`. The beginning is `0-0` with 0."""

    position: str = BEGINNING
    seq: int = 0


async def register(session: Session, partition: int, epoch: int, names: Sequence[str]) -> None:
    """Make sure that each projection has a checkpoint, and stamp them with the owner's epoch.

    Checkpoints of projections that are no more are removed: they would hold back trimming for ever.
    """
    await session.execute(_SQL["register"], partition, epoch, list(names))
    await session.execute(_SQL["forget"], partition, list(names))
    await stamp(session, partition, epoch)


async def stamp(session: Session, partition: int, epoch: int) -> None:
    """Mark all checkpoints of a partition as those of the owner with this epoch."""
    await session.execute(_SQL["stamp"], partition, epoch)


async def places(session: Session, partition: int, epoch: int) -> dict[str, Place]:
    """Where each projection is; raises `PartitionLost` when the checkpoints carry another epoch."""
    rows = await session.fetch(_SQL["places"], partition)
    if not rows or any(row["epoch"] != epoch for row in rows):
        raise PartitionLost
    return {row["projection"]: Place(position=row["position"], seq=row["seq"]) for row in rows}


async def move(
    session: Session, partition: int, epoch: int, names: Sequence[str], *, old: Place, last: RawEntry
) -> None:
    """Move the checkpoints of `names` to the entry `last`; raises `PartitionLost`. The first statement of a batch."""
    status = await session.execute(
        _SQL["move"],
        partition,
        epoch,
        list(names),
        old.position,
        text(last.entry_id),
        last.seq,
        entry_time(last.entry_id),
    )
    if status != f"UPDATE {len(names)}":
        raise PartitionLost


async def hold(session: Session, partition: int, epoch: int) -> None:
    """Keep the checkpoints where they are until the transaction ends; raises `PartitionLost`."""
    rows = await session.fetch(_SQL["hold"], partition)
    if not rows or any(row["epoch"] != epoch for row in rows):
        raise PartitionLost


async def place_of(session: Session, partition: int, name: str) -> Place | None:
    """Where one projection is; None when it never began."""
    row = await session.fetchrow(_SQL["place_of"], partition, name)
    return None if row is None else Place(position=row["position"], seq=row["seq"])


async def freeze(session: Session, partition: int, name: str) -> Place | None:
    """Keep all checkpoints of a partition where they are, whoever owns it; gives the place of one projection."""
    await session.fetch(_SQL["hold"], partition)
    return await place_of(session, partition, name)


async def confirm(session: Session, partition: int, epoch: int) -> None:
    """Bring on disk what was committed so far, and say so in `confirmed_position`; raises `PartitionLost`."""
    async with session.transaction():
        await session.execute("SET LOCAL synchronous_commit = on")
        if await session.execute(_SQL["confirm"], partition, epoch) == "UPDATE 0":
            raise PartitionLost


async def reset(session: Session, partition: int, epoch: int, name: str) -> None:
    """Send a projection back to the beginning; raises `PartitionLost`."""
    if await session.execute(_SQL["reset"], partition, epoch, name) == "UPDATE 0":
        raise PartitionLost
