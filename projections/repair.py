"""Repair: brings the read model of a partition back in line with a log that does not continue where it was read.

Redis is the log, so the log is right. What was archived and is not in it any more is set aside (`abandoned`), the runs it
belonged to are folded again from what is left, and reading goes on from the last entry both have. What the log lost before
it was read can't be had back: runs with a hole in their history are parked when they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from tailrace.core.errors import IdentityMismatch
from tailrace.core.store.port import Head
from tailrace.projections import checkpoints, parking
from tailrace.projections.archive import Archive
from tailrace.projections.beside import rebuildable
from tailrace.projections.checkpoints import BEGINNING, Place
from tailrace.projections.port import LogSource
from tailrace.projections.refold import refold
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import statements

_SQL = statements("repair")
_log = logging.getLogger(__name__)


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """A partition after its repair: read up to `seq`; events set aside, runs folded again, events that nobody has."""

    partition: int
    seq: int
    abandoned: int
    runs: list[str]
    missing: int


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`kept`: the last `seq` that archive and log agree on. `place`: where reading goes on."""

    old: Place
    kept: int
    place: Place
    head: Head


async def repair(url: str, log: LogSource, partition: int | None = None) -> list[Repaired]:
    """Mend the partitions whose log does not continue (or only one); gives those that were mended.

    A projector may run: it looks at a stopped partition again by itself. Raises `IdentityMismatch` when the database belongs
    to another store, whose history would be set aside, and `ReadModelUnavailable`.
    """
    partitions = range(log.partitions) if partition is None else [partition]
    try:
        session = await connect(url, "tailrace repair")
        try:
            await _check_identity(session, log)
            found = [await _repair(session, log, number) for number in partitions]
        finally:
            session.terminate()
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    return [repaired for repaired in found if repaired is not None]


async def _check_identity(session: Session, log: LogSource) -> None:
    known = await session.fetchval(_SQL["store_id"])
    if known is not None and known != log.instance_id:
        raise IdentityMismatch(
            f"the database holds the read model of the store {known}, and this log is of {log.instance_id}: nothing was "
            "changed; check TAILRACE_REDIS_URL, TAILRACE_NAMESPACE and TAILRACE_POSTGRES_URL"
        )


async def _repair(session: Session, log: LogSource, partition: int) -> Repaired | None:
    plan = await _plan(session, log, partition)
    if plan is None:
        return None
    async with session.transaction():
        await session.execute("SET LOCAL lock_timeout = '5s'")
        await session.execute("SET LOCAL synchronous_commit = on")
        if await checkpoints.freeze(session, partition, Archive.name) != plan.old:
            # It is being read meanwhile, and a reader stops where the log does not continue: there is nothing to mend.
            return None
        runs = [row["workflow_id"] for row in await session.fetch(_SQL["affected"], partition, plan.kept)]
        abandoned = await session.fetchval(_SQL["abandon"], partition, plan.kept)
        await _fold_again(session, partition, runs)
        await session.execute(_SQL["place"], partition, plan.kept, plan.place.position, plan.place.seq, plan.old.seq)
        await session.execute(_SQL["log_epoch"], partition, plan.head.epoch)
    missing = plan.place.seq - plan.kept
    if not runs and not missing:
        return None
    _log.warning("partition %d: %d events set aside, %d are missing", partition, abandoned, missing)
    return Repaired(partition=partition, seq=plan.place.seq, abandoned=abandoned, runs=sorted(runs), missing=missing)


async def _plan(session: Session, log: LogSource, partition: int) -> _Plan | None:
    """Where archive and log part; None when the partition was never read."""
    old = await checkpoints.place_of(session, partition, Archive.name)
    if old is None:
        return None
    head = await log.head(partition)
    first = await log.read_log(partition, BEGINNING, count=1)
    begin = first[0].seq if first else head.seq + 1
    kept = await _last_common(session, log, partition, low=begin, high=min(old.seq, head.seq))
    row = await session.fetchrow(_SQL["archived_at"], partition, kept)
    position = row["entry_id"] if row is not None else BEGINNING
    # What lies between and is in neither can't be read any more: reading goes on with what the log begins with.
    return _Plan(old=old, kept=kept, place=Place(position=position, seq=max(kept, begin - 1)), head=head)


async def _last_common(session: Session, log: LogSource, partition: int, *, low: int, high: int) -> int:
    """The highest `seq` from `low` to `high` whose archived entry is in the log; `low - 1`, if lower, when none is.

    Entries are the same up to one place, and others behind it: so it is found by halving.
    """
    if high < low:
        return high  # nothing to compare: the log was trimmed past it
    below = low - 1
    while below < high:
        middle = (below + high + 1) // 2
        row = await session.fetchrow(_SQL["archived_at"], partition, middle)
        if row is not None and row["seq"] > below and not await log.has_entry(partition, row["entry_id"]):
            high = row["seq"] - 1
        else:
            below = middle
    return below


async def _fold_again(session: Session, partition: int, runs: Sequence[str]) -> None:
    """Write the rows of these runs from what the archive has of them now."""
    await refold(session, partition, runs, rebuildable())
    stopped = await parking.parked_runs(session, partition)
    await parking.mark(session, [run for run in runs if run in stopped])
