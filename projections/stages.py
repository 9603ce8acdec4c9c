"""`stages`: one row per stage of each run, a function of the folded state; the output comes with its event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from tailrace.core.events import Failure
from tailrace.core.workflow.state import StageState, StageStatus, WorkflowState
from tailrace.projections.batch import Batch
from tailrace.projections.fold import Run
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document

_SQL = statements("stages")
_WRITE = f"{_SQL['insert']}\n{_SQL['or_update']}"


class _Stage(Row, frozen=True, kw_only=True):
    """A row. An attempt gives its output once: when that was before this batch, the statement keeps what is there."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"output"})

    workflow_id: str
    stage: str
    ordinal: int
    status: str
    weight: int
    attempt: int
    tries: int
    progress: float
    worker: str | None
    started_at: int | None
    finished_at: int | None
    retry_at: int | None
    output_attempt: int | None
    output: Any
    error: Failure | None
    compensation: str | None


class Stages:
    """The table `stages`."""

    name: Final = "stages"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the stages that differ from before the batch."""
        rows = [row for run in batch.runs.values() for row in _rows(run)]
        if rows:
            await session.execute(_SQL["insert"] if batch.fresh else _WRITE, batch.partition, document(rows))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _rows(run: Run) -> Iterator[_Stage]:
    if run.state is None:
        return
    before = {} if run.before is None else run.before.stages
    undone, undone_before = _undone(run.state), _undone(run.before)
    for ordinal, (name, stage) in enumerate(run.state.stages.items()):
        if before.get(name) is not stage or undone.get(name) != undone_before.get(name):
            yield _row(run, ordinal, name, stage, undone.get(name))


def _undone(state: WorkflowState | None) -> dict[str, StageStatus]:
    """How far the undoing of stages is, where there is any."""
    if state is None or state.compensation is None:
        return {}
    return {name: status for name in state.stages if (status := state.compensation_of(name)) is not None}


def _row(run: Run, ordinal: int, name: str, stage: StageState, compensation: str | None) -> _Stage:
    task, given = stage.task, stage.output_attempt
    return _Stage(
        workflow_id=run.workflow_id,
        stage=name,
        ordinal=ordinal,
        status=stage.status,
        weight=stage.weight,
        attempt=stage.attempt,
        tries=stage.tries,
        progress=1.0 if stage.status == "completed" else task.fraction if task else 0.0,
        worker=(stage.worker if task is None else task.worker) or None,
        started_at=stage.started_at,
        finished_at=stage.finished_at,
        retry_at=stage.retry_at,
        output_attempt=given,
        output=None if given is None else run.outputs.get((name, given)),
        error=stage.error,
        compensation=compensation,
    )
