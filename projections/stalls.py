"""`stalls`: every finding of the watchdog, from when it stood until it was cleared or replaced."""

from __future__ import annotations

from typing import Any, Final

from tailrace.projections.batch import Batch
from tailrace.projections.fold import StallRow
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import jsonb, text, time

_SQL = statements("stalls")


class Stalls:
    """The table `stalls`."""

    name: Final = "stalls"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the stalls that began or ended."""
        rows = [
            _row(run.workflow_id, batch.partition, stall)
            for run in batch.runs.values()
            for stall in run.stalls.values()
        ]
        if rows:
            await session.execute(_SQL["write"], *zip(*rows, strict=True))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _row(workflow_id: str, partition: int, stall: StallRow) -> tuple[Any, ...]:
    return (
        workflow_id,
        stall.version,
        partition,
        text(stall.cause),
        text(stall.hop),
        text(stall.summary),
        text(stall.suggestion),
        jsonb(stall.evidence),
        time(stall.since),
        time(stall.cleared_at),
    )
