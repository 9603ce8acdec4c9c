"""The trial of what was built beside, before it takes the place of what is read.

Every row is compared with the one that is read, as of one moment, but for runs that are ahead in one of the two. Where
rows differ, one of the ways they were written is at fault: so those runs, or some of them, and a few others are folded
once more, event by event, as a projector does that never sees two events at once. What was built must be equal to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

import asyncpg

from tailrace.core.errors import ConfigurationError
from tailrace.projections import parking
from tailrace.projections.archive import to_entry
from tailrace.projections.batch import Batch
from tailrace.projections.beside import ROWS, TABLES, add_keys, make_table, rebuildable
from tailrace.projections.fold import Run, RunView, to_record
from tailrace.projections.port import Projection
from tailrace.projections.session import Session
from tailrace.projections.sql import statements

_SQL = statements("trial")

#: How many runs are folded once more.
SAMPLE: Final = 20


async def check_beside(session: Session, wanted: Sequence[str]) -> dict[str, int]:
    """Compare what has rows of runs; gives how many of each differ from those that are read, rightly as far as was tried.

    Raises `ConfigurationError` for a row that is not what folding event by event gives.
    """
    names = [name for name in wanted if name in ROWS]
    async with session.transaction(isolation="repeatable_read"):
        await session.execute(_SQL["moving"])
        await session.execute("ANALYZE moving")
        counts, differing = dict.fromkeys(names, 0), set[str]()
        for name in names:
            for row in await session.fetch(_SQL[f"differing_{name}"], SAMPLE):
                counts[name] = row["differ"]
                differing.add(row["workflow_id"])
        others = await session.fetch(_SQL[f"any_{names[0]}"], SAMPLE)
        sample = [*sorted(differing)[: SAMPLE // 2], *{row["workflow_id"] for row in others}][:SAMPLE]
        await _fold_again(session, [item for item in rebuildable() if item.name in names], sample)
        for name in names:
            for row in await session.fetch(_SQL[f"wrong_{name}"], sample):
                raise ConfigurationError(
                    f"run {row['workflow_id']} was built wrongly in {name}, nothing was changed: folding its events one by "
                    "one gives other rows; this is a fault of this version, please report it"
                )
    return counts


async def _fold_again(session: Session, projections: Sequence[Projection], runs: Sequence[str]) -> None:
    """Write the rows of these runs into temporary tables, one event at a time."""
    for table in TABLES:
        await make_table(session, table)
        await add_keys(session, table)
    await session.execute(_SQL["parked"], list(runs))
    rows = await session.fetch(_SQL["histories"], list(runs))
    for workflow_id, group in groupby(rows, key=lambda row: row["workflow_id"]):
        await _fold_run(session, projections, workflow_id, group)
    await parking.mark(session, runs)


async def _fold_run(
    session: Session, projections: Sequence[Projection], workflow_id: str, rows: Iterable[asyncpg.Record]
) -> None:
    view: RunView | None = None
    for row in rows:
        run = Run(workflow_id, view)
        run.advance(to_record(to_entry(row)))
        view = run.view()
        batch = Batch(row["partition"], (), ())
        batch.runs[workflow_id] = run
        for projection in projections:
            await projection.apply(session, batch)
