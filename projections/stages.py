"""`stages`: one row per stage of each run, a function of the folded state; the output comes with its event."""

from __future__ import annotations

from typing import Any, Final

from tailrace.core.workflow.state import StageState
from tailrace.projections.batch import Batch
from tailrace.projections.fold import Run
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import jsonb, shown, text, time

_SQL = statements("stages")


class Stages:
    """The table `stages`."""

    name: Final = "stages"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the stages that differ from before the batch."""
        rows = [row for run in batch.runs.values() for row in _rows(run, batch.partition)]
        if rows:
            await session.execute(_SQL["write"], *zip(*rows, strict=True))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _rows(run: Run, partition: int) -> list[tuple[Any, ...]]:
    if run.state is None:
        return []
    before = {} if run.before is None else run.before.stages
    return [
        _row(run, partition, ordinal, name, stage)
        for ordinal, (name, stage) in enumerate(run.state.stages.items())
        if before.get(name) is not stage
    ]


def _row(run: Run, partition: int, ordinal: int, name: str, stage: StageState) -> tuple[Any, ...]:
    # An attempt gives its output once. When it was given before this batch, the statement keeps what is there.
    output = None if stage.output_attempt is None else run.outputs.get((name, stage.output_attempt))
    progress = 1.0 if stage.status == "completed" else stage.task.fraction if stage.task else 0.0
    return (
        run.workflow_id,
        name,
        ordinal,
        partition,
        stage.status,
        stage.weight,
        stage.attempt,
        stage.tries,
        progress,
        text(stage.task.worker) or None if stage.task else None,
        time(stage.started_at),
        time(stage.finished_at),
        time(stage.retry_at),
        stage.output_attempt,
        None if output is None else jsonb(output),
        shown(stage.error),
    )
