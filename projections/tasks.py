"""`tasks`: one row per attempt of a stage, from its dispatch to its outcome."""

from __future__ import annotations

from typing import Final

from tailrace.projections.batch import Batch
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import document

_SQL = statements("tasks")
_WRITE = f"{_SQL['insert']}\n{_SQL['or_update']}"


class Tasks:
    """The table `tasks`."""

    name: Final = "tasks"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the tasks that changed, each once."""
        rows = [task for run in batch.runs.values() for task in run.tasks.values()]
        if rows:
            await session.execute(_SQL["insert"] if batch.fresh else _WRITE, batch.partition, document(rows))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)
