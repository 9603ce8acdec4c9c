"""What a rebuild replaced, kept in the schema `tailrace_kept` until the next one, or until it is put back.

Invariant: a projection that is kept is its rows with their checkpoints, and where runs were parked then, all of one moment.
So it can be put in the place of what is read, from where the projector brings it up to date out of the archive. It can't
any more after a migration, which it did not have, or a repair, which took back events that its rows may show.
"""

from __future__ import annotations

from itertools import groupby

from tailrace.core.errors import ConfigurationError
from tailrace.projections import parking
from tailrace.projections.beside import rebuildable
from tailrace.projections.refold import refold
from tailrace.projections.session import Session
from tailrace.projections.sql import statements

_SQL = statements("kept")


async def names_kept(session: Session) -> list[str]:
    """The projections that can be put back."""
    if not await session.fetchval(_SQL["exists"]):
        return []
    found = {row["projection"] for row in await session.fetch(_SQL["names"])}
    return [projection.name for projection in rebuildable() if projection.name in found]


async def prepare(session: Session) -> None:
    """Make the schema, where it is not there."""
    for statement in ("schema", "versions", "checkpoints", "stops"):
        await session.execute(_SQL[statement])


async def keep(session: Session, name: str) -> None:
    """Move the table that is read out of the way, with all it needs to come back. In a transaction that holds checkpoints."""
    await session.execute(f"DROP TABLE IF EXISTS tailrace_kept.{name}")
    await session.execute(f"ALTER TABLE tailrace.{name} SET SCHEMA tailrace_kept")
    await session.execute(_SQL["forget_checkpoints"], name)
    await session.execute(_SQL["write_checkpoints"], name)
    await _write_down(session, name)


async def stops_moved(session: Session, name: str) -> bool:
    """Whether runs have been parked, or redriven, since a projection was replaced."""
    return bool(await session.fetch(_SQL["moved_stops"], name))


async def put_back(session: Session, name: str) -> dict[int, int]:
    """Exchange what is kept and what is read; gives by partition from which `seq` it goes on.

    In a transaction that holds checkpoints. Raises `ConfigurationError` when what is kept does not fit any more.
    """
    await _check_fits(session, name)
    moved = await session.fetch(_SQL["moved_stops"], name)
    await session.execute("CREATE SCHEMA tailrace_swap")
    await session.execute(f"ALTER TABLE tailrace_kept.{name} SET SCHEMA tailrace_swap")
    await session.execute(f"ALTER TABLE tailrace.{name} SET SCHEMA tailrace_kept")
    await session.execute(f"ALTER TABLE tailrace_swap.{name} SET SCHEMA tailrace")
    await session.execute("DROP SCHEMA tailrace_swap")
    await session.execute(_SQL["exchange_checkpoints"], name)
    projections = rebuildable(name)
    for (partition, seq), rows in groupby(moved, key=lambda row: (row["partition"], row["seq"])):
        # Parked then and not now, or elsewhere: what the projector will read does not begin where these runs stopped.
        runs = [row["workflow_id"] for row in rows]
        await parking.mark(session, await refold(session, partition, runs, projections, until=seq))
    await _write_down(session, name)
    return {row["partition"]: row["seq"] for row in await session.fetch(_SQL["places"], name)}


async def discard(session: Session) -> None:
    """Drop all that is kept."""
    await session.execute("DROP SCHEMA IF EXISTS tailrace_kept CASCADE")


async def _check_fits(session: Session, name: str) -> None:
    row = await session.fetchrow(_SQL["misfit"], name)
    if row is None:
        raise ConfigurationError(f"nothing is kept of {name}: it was not rebuilt, or what it replaced was dropped")
    if row["migrated"]:
        raise ConfigurationError(f"what is kept of {name} has the tables of an older version; rebuild it instead")
    if row["repaired"]:
        raise ConfigurationError(f"what is kept of {name} may show events that a repair set aside; rebuild it instead")


async def _write_down(session: Session, name: str) -> None:
    await session.execute(_SQL["write_version"], name)
    await session.execute(_SQL["forget_stops"], name)
    await session.execute(_SQL["write_stops"], name)
