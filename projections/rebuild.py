"""Rebuild: a read model built anew beside the one that is read, and put in its place in one step.

Invariant: readers see the old rows or the new ones, whole. Projectors go on meanwhile; they wait only for the last
stretch and the swap, which are one transaction that holds all checkpoints.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import asyncpg

from tailrace.core.errors import ConfigurationError, ReadModelUnavailable
from tailrace.projections.beside import BATCH, BOOKS, OnProgress, Replay, archived, rebuildable
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import statements
from tailrace.projections.verify import STATEMENT_SECONDS

_SQL = statements("beside")
_log = logging.getLogger(__name__)

#: How often the swap is tried against readers and projectors that hold their locks.
SWAP_ATTEMPTS: Final = 5


async def rebuild(url: str, name: str | None = None, *, on_progress: OnProgress | None = None) -> dict[str, int]:
    """Build all projections, or the one called `name`, from the archive; gives the number of rows of each.

    Raises `InvalidInput` for a projection that is not there, `ConfigurationError` when it can't be done as things are
    (another rebuild, an event that this code can't apply), `ReadModelUnavailable`.
    """
    names = [projection.name for projection in rebuildable(name)]
    try:
        session = await connect(
            url, "tailrace rebuild", statement_seconds=STATEMENT_SECONDS, search_path="tailrace_next, tailrace"
        )
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    try:
        if not await session.fetchval(_SQL["lock"]):
            raise ConfigurationError("a rebuild is under way already")
        try:
            return await _rebuild(session, names, on_progress)
        finally:
            if not session.is_closed():
                await session.execute("DROP SCHEMA IF EXISTS tailrace_next CASCADE")
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    finally:
        session.terminate()


async def _rebuild(session: Session, names: Sequence[str], on_progress: OnProgress | None) -> dict[str, int]:
    tables = (*BOOKS, *(projection.name for projection in rebuildable()))
    async with session.transaction():
        await session.execute("DROP SCHEMA IF EXISTS tailrace_next CASCADE")
        await session.execute("CREATE SCHEMA tailrace_next")
        for table in tables:
            await _make_beside(session, table)
        await session.execute("INSERT INTO tailrace_next.parked SELECT * FROM tailrace.parked")
    targets = await archived(session)
    replay = Replay(session, [projection for projection in rebuildable() if projection.name in names])
    done = dict.fromkeys(targets, 0)
    while sum(targets.values()) - sum(done.values()) > BATCH:
        await replay.to(targets, on_progress)
        done, targets = targets, await archived(session)
    for attempt in range(SWAP_ATTEMPTS):
        try:
            return await _swap(session, replay, names, on_progress)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            # What the replay wrote in the transaction is gone with it, so a new one begins: rare, and never wrong.
            _log.info("the read model is in use; swapping again (%d)", attempt + 1)
            await asyncio.sleep(0.2 * (attempt + 1))
            replay.rewind()
    raise ReadModelUnavailable("the read model is in use, so that it could not be replaced; try again")


async def _make_beside(session: Session, table: str) -> None:
    """Make an empty table in `tailrace_next` with the settings, constraints and indexes (by name) of the one in `tailrace`."""
    await session.execute(f"CREATE TABLE tailrace_next.{table} (LIKE tailrace.{table} INCLUDING DEFAULTS)")
    settings = await session.fetchval(_SQL["settings"], table)
    if settings:
        await session.execute(f"ALTER TABLE tailrace_next.{table} SET ({', '.join(settings)})")
    for row in await session.fetch(_SQL["constraints"], table):
        await session.execute(f"ALTER TABLE tailrace_next.{table} ADD CONSTRAINT {row['conname']} {row['definition']}")
    for row in await session.fetch(_SQL["indexes"], table):
        await session.execute(row["definition"].replace(f" ON tailrace.{table} ", f" ON tailrace_next.{table} ", 1))


async def _swap(
    session: Session, replay: Replay, names: Sequence[str], on_progress: OnProgress | None
) -> dict[str, int]:
    """Hold all checkpoints, apply what came last, and put the new tables in the place of the old ones."""
    async with session.transaction():
        await session.execute("SET LOCAL lock_timeout = '2s'")
        await session.execute("SET LOCAL synchronous_commit = on")
        await session.execute(_SQL["freeze"])
        await replay.to(await archived(session), on_progress)
        for row in await session.fetch(_SQL["newly_parked"]):
            raise ConfigurationError(
                f"run {row['workflow_id']} can't be rebuilt by this code, nothing was changed: {row['reason']}"
            )
        rows = {name: await session.fetchval(_SQL[f"count_{name}"]) for name in names}
        for name in names:
            await session.execute(f"DROP TABLE tailrace.{name}")
            await session.execute(f"ALTER TABLE tailrace_next.{name} SET SCHEMA tailrace")
            await session.execute(
                "UPDATE tailrace.checkpoints AS c SET position = a.position, seq = a.seq"
                " FROM tailrace.checkpoints AS a"
                " WHERE c.projection = $1 AND a.projection = 'archive' AND a.partition = c.partition",
                name,
            )
    return rows
