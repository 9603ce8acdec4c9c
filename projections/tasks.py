"""`tasks`: one row per attempt of a stage, from its dispatch to its outcome."""

from __future__ import annotations

from typing import Any, Final

from tailrace.projections.batch import Batch
from tailrace.projections.fold import TaskRow
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import shown, text, time

_SQL = statements("tasks")


class Tasks:
    """The table `tasks`."""

    name: Final = "tasks"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the tasks that changed, each once."""
        rows = [
            _row(run.workflow_id, batch.partition, task) for run in batch.runs.values() for task in run.tasks.values()
        ]
        if rows:
            await session.execute(_SQL["write"], *zip(*rows, strict=True))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _row(workflow_id: str, partition: int, task: TaskRow) -> tuple[Any, ...]:
    return (
        workflow_id,
        text(task.task_id),
        partition,
        task.stage,
        task.attempt,
        text(task.agent),
        text(task.worker),
        task.status,
        task.deliveries,
        task.progress,
        time(task.dispatched_at),
        time(task.started_at),
        time(task.finished_at),
        shown(task.error),
    )
