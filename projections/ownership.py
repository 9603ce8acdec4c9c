"""Ownership: which projector reads which partition, by a row in Postgres and in Postgres' time.

Invariant: one owner at a time. Each new owner raises the epoch and stamps it on the checkpoints, so that an old one
that still runs can't move them. A lease that is not renewed runs out by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.projections import checkpoints
from tailrace.projections.session import Session
from tailrace.projections.sql import statements

_SQL = statements("ownership")


class Tenure(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that this projector owns."""

    partition: int
    epoch: int


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What a beat found: partitions still owned, partitions free to take, and the fair share of one projector."""

    owned: frozenset[int]
    free: tuple[int, ...]
    share: int


async def beat(session: Session, name: str, held: Mapping[int, int], *, lease_seconds: float) -> Situation:
    """Say that this projector lives, renew the leases it holds (partition to epoch), and look around."""
    async with session.transaction():
        await session.execute(_SQL["beat"], name, lease_seconds)
        renewed = await session.fetch(_SQL["renew"], name, list(held), list(held.values()), lease_seconds)
        row = await session.fetchrow(_SQL["situation"])
    assert row is not None
    partitions, projectors = row["partitions"], row["projectors"]
    return Situation(
        owned=frozenset(item["partition"] for item in renewed),
        free=tuple(row["free"] or ()),
        share=-(-partitions // max(projectors, 1)),
    )


async def take(
    session: Session, name: str, partition: int, names: Sequence[str], *, lease_seconds: float
) -> Tenure | None:
    """Take a free partition, and register its checkpoints; None when somebody was quicker."""
    async with session.transaction():
        # An old owner may be in a transaction on these rows. It ends by its own limits: no waiting for it here.
        await session.execute("SET LOCAL lock_timeout = '500ms'")
        row = await session.fetchrow(_SQL["take"], partition, name, lease_seconds)
        if row is None:
            return None
        await checkpoints.register(session, partition, row["epoch"], names)
    return Tenure(partition=partition, epoch=row["epoch"])


async def take_over(session: Session, name: str, partition: int, *, lease_seconds: float) -> Tenure | None:
    """Take a partition from whoever has it, who gives up at its next write; None when it was never read."""
    async with session.transaction():
        await session.execute("SET LOCAL lock_timeout = '5s'")
        epoch = await session.fetchval(_SQL["take_over"], partition, name, lease_seconds)
        if epoch is None:
            return None
        await checkpoints.stamp(session, partition, epoch)
    return Tenure(partition=partition, epoch=epoch)


async def release(session: Session, name: str, held: Mapping[int, int]) -> None:
    """Give partitions (with their epochs) up, so that others can take them at once."""
    await session.execute(_SQL["release"], name, list(held), list(held.values()))


async def release_all(session: Session) -> None:
    """Send every reader back to its checkpoints: it finds at its next beat that it owns nothing, and begins again."""
    await session.execute(_SQL["release_all"])


async def leave(session: Session, name: str) -> None:
    """Say that this projector is gone."""
    await session.execute(_SQL["leave"], name)


async def show_problem(session: Session, tenure: Tenure, problem: str | None) -> None:
    """Write down why the partition stands still; None when it does not."""
    await session.execute(_SQL["problem"], tenure.partition, tenure.epoch, problem)


async def log_epoch(session: Session, tenure: Tenure) -> str | None:
    """The epoch of the log that the partition's read model was built from; None before its first event."""
    found: str | None = await session.fetchval(_SQL["known_log"], tenure.partition)
    return found


async def set_log_epoch(session: Session, tenure: Tenure, epoch: str) -> None:
    """Write down which log the read model of the partition is built from."""
    await session.execute(_SQL["log_epoch"], tenure.partition, tenure.epoch, epoch)
