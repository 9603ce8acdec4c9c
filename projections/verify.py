"""Verify: are the rows what the archive says? Everything is built again beside, in one snapshot, and compared.

Invariant: it changes nothing and holds nobody up. The tables it fills are temporary, and its snapshot, which both its
sessions share, sees archive, rows and checkpoints as of one moment, while projectors go on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from tailrace.core.errors import ReadModelUnavailable
from tailrace.projections import parking
from tailrace.projections.batch import Batch, ParkedEntry
from tailrace.projections.beside import (
    STATEMENT_SECONDS,
    TABLES,
    OnProgress,
    Progress,
    add_keys,
    archived,
    make_table,
    rebuildable,
)
from tailrace.projections.port import Projection
from tailrace.projections.session import STAYS, UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import statements
from tailrace.projections.whole import IN_ORDER, WholeRuns

_SQL = statements("beside")
_log = logging.getLogger(__name__)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not what the archive says: `missing`, `unexpected` or `different`. `key` is its key within the run."""

    workflow_id: str
    key: str
    kind: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A projection compared: `rows` as they should be, how many `differ`, and the first of them."""

    projection: str
    rows: int
    differ: int
    differences: list[Difference]


async def verify(url: str, name: str | None = None, *, on_progress: OnProgress | None = None) -> list[Verdict]:
    """Compare all projections, or the one called `name`, with the archive.

    Raises `InvalidInput` for a projection that is not there, `ReadModelUnavailable`.
    """
    projections = rebuildable(name)
    try:
        async with _session(url) as reader, _session(url) as session, session.transaction(isolation="repeatable_read"):
            snapshot = await session.fetchval(_SQL["export"])
            async with reader.transaction(isolation="repeatable_read", readonly=True):
                await reader.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                await _fold(reader, session, projections, on_progress or _ignore)
            return [await _compare(session, projection.name) for projection in projections]
    except UNAVAILABLE as error:
        raise unavailable(error) from error


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[Session]:
    """One that is ended at once on the way out."""
    session = await connect(url, "tailrace verify", statement_seconds=STATEMENT_SECONDS, more=STAYS)
    try:
        yield session
    finally:
        session.terminate()


async def _fold(reader: Session, session: Session, projections: Sequence[Projection], on_progress: OnProgress) -> None:
    """Fold the archive into temporary tables."""
    targets = await archived(session)
    await _check_even(session, targets)
    for table in TABLES:
        await make_table(session, table)
    await session.execute(_SQL["copy_all_parked"])
    parked: dict[str, int] = {}
    for partition in targets:
        parked |= await parking.parked_runs(session, partition)
    done, total = 0, sum(targets.values())

    async def tell(_: str, events: int) -> None:
        nonlocal done
        done += events
        on_progress(Progress(done=min(done, total), total=total))

    for name, value in IN_ORDER.items():
        await reader.execute(f"SET LOCAL {name} = {value}")
    problems: list[ParkedEntry] = []
    runs = WholeRuns(reader, session, projections, marks=targets, parked=parked)
    await runs.write(keep=tell, on_problem=problems.append)
    on_progress(Progress(done=total, total=total, step="comparing"))
    for table in TABLES:
        await add_keys(session, table)
        await session.execute(f"ANALYZE {table}")
    await parking.mark(session, list(parked))
    # Parked beside and not in what is read, a run differs.
    for problem in problems:
        _log.warning("run %s can't be folded by this code: %s", problem.entry.workflow_id, problem.reason)
        batch = Batch(problem.entry.partition, (), ())
        batch.parked.append(problem)
        await parking.park(session, batch)


def _ignore(progress: Progress) -> None:
    """Nobody looks."""


async def _check_even(session: Session, targets: dict[int, int]) -> None:
    """Refuse while a projection is behind the archive: it would differ, and not be wrong."""
    for row in await session.fetch(_SQL["behind"]):
        raise ReadModelUnavailable(
            f"{row['projection']} is at {row['seq']} of {targets[row['partition']]} in partition {row['partition']}: "
            "it is being built; verify it when it has caught up"
        )


async def _compare(session: Session, name: str) -> Verdict:
    rows = await session.fetchval(_SQL[f"count_{name}"])
    found = await session.fetch(_SQL[f"compare_{name}"])
    return Verdict(
        projection=name,
        rows=rows,
        differ=found[0]["differ"] if found else 0,
        differences=[
            Difference(workflow_id=row["workflow_id"], key=str(row["key"]), kind=row["kind"]) for row in found
        ],
    )
