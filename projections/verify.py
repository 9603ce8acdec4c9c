"""Verify: are the rows what the archive says? Everything is built again beside, in one snapshot, and compared.

Invariant: it changes nothing and holds nobody up. The tables it fills are temporary, and its snapshot sees rows and
checkpoints as of one moment, while projectors go on.
"""

from __future__ import annotations

import msgspec

from tailrace.core.errors import ReadModelUnavailable
from tailrace.projections.beside import BOOKS, OnProgress, Replay, archived, rebuildable
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import statements

_SQL = statements("beside")

#: How long one statement may take on a large read model.
STATEMENT_SECONDS = 600.0


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
        session = await connect(url, "tailrace verify", statement_seconds=STATEMENT_SECONDS)
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    try:
        async with session.transaction(isolation="repeatable_read"):
            targets = await archived(session)
            await _check_even(session, targets)
            for table in (*BOOKS, *(projection.name for projection in rebuildable())):
                await session.execute(f"CREATE TEMP TABLE {table} (LIKE tailrace.{table} INCLUDING ALL) ON COMMIT DROP")
            await session.execute("INSERT INTO parked SELECT * FROM tailrace.parked")
            await Replay(session, projections).to(targets, on_progress)
            return [await _compare(session, projection.name) for projection in projections]
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    finally:
        session.terminate()


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
