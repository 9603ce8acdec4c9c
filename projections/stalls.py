"""`stalls`: every finding of the watchdog, from when it stood until it was cleared or replaced."""

from __future__ import annotations

from typing import Final

from tailrace.projections.batch import Batch
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import document

_SQL = statements("stalls")
_WRITE = f"{_SQL['insert']}\n{_SQL['or_update']}"


class Stalls:
    """The table `stalls`."""

    name: Final = "stalls"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the stalls that began or ended."""
        rows = [stall for run in batch.runs.values() for stall in run.stalls.values()]
        if rows:
            await session.execute(_SQL["insert"] if batch.fresh else _WRITE, batch.partition, document(rows))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)
