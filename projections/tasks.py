"""`tasks`: one row per attempt of a stage, from its dispatch to its outcome."""

from __future__ import annotations

import struct
from typing import Final

from tailrace.projections.batch import Batch
from tailrace.projections.binary import copy, finite, fit_jsonb_field, instant, instant_field, text_field, word
from tailrace.projections.fold import TaskRow
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import document

_SQL = statements("tasks")
_COLUMNS: Final = (
    "partition",
    "attempt",
    "deliveries",
    "progress",
    "dispatched_at",
    "compensation",
    "workflow_id",
    "task_id",
    "stage",
    "agent",
    "worker",
    "status",
    "started_at",
    "finished_at",
    "error",
)
_COUNT: Final = len(_COLUMNS)
_numbers = struct.Struct(">h ii ii ii id iq i?").pack


class Tasks:
    """The table `tasks`."""

    name: Final = "tasks"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the tasks that changed, each once."""
        new: list[TaskRow] = []
        moved: list[TaskRow] = []
        for run in batch.runs.values():
            for task in run.tasks.values():
                (new if run.is_new(task) else moved).append(task)
        if new:
            await copy(session, "tasks", _COLUMNS, (_row(batch.partition, task) for task in new))
        if moved:
            await session.execute(_SQL["write"], batch.partition, document(moved))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _row(partition: int, task: TaskRow) -> bytes:
    attempt, deliveries, progress, at = (
        task.attempt,
        task.deliveries,
        finite(task.progress),
        instant(task.dispatched_at),
    )
    return b"".join(
        (
            _numbers(_COUNT, 4, partition, 4, attempt, 4, deliveries, 8, progress, 8, at, 1, task.compensation),
            word(task.workflow_id),
            text_field(task.task_id),
            word(task.stage),
            word(task.agent),
            word(task.worker),
            word(task.status),
            instant_field(task.started_at),
            instant_field(task.finished_at),
            fit_jsonb_field(task.error),
        )
    )
