"""`stages`: one row per stage of each run, a function of the folded state; the output comes with its event."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from tailrace.core.events import Failure
from tailrace.core.workflow.state import StageState, StageStatus, WorkflowState
from tailrace.projections.batch import Batch
from tailrace.projections.binary import (
    copy,
    finite,
    fit_jsonb_field,
    instant_field,
    integer_field,
    jsonb_field,
    optional_word,
    word,
)
from tailrace.projections.fold import Run
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document

_SQL = statements("stages")
_COLUMNS: Final = (
    "partition",
    "ordinal",
    "weight",
    "attempt",
    "tries",
    "progress",
    "workflow_id",
    "stage",
    "status",
    "worker",
    "started_at",
    "finished_at",
    "retry_at",
    "output_attempt",
    "output",
    "error",
    "compensation",
)
_COUNT: Final = len(_COLUMNS)
_numbers = struct.Struct(">h ii ii ii ii ii id").pack


class _Stage(Row, frozen=True, kw_only=True, omit_defaults=True):
    """A row, without what is null. An attempt gives its output once: when that was before this batch, the statement keeps
    what is there.
    """

    verbatim: ClassVar[frozenset[str]] = frozenset({"output"})

    workflow_id: str
    stage: str
    ordinal: int
    status: str
    weight: int
    attempt: int
    tries: int
    progress: float
    worker: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    retry_at: int | None = None
    output_attempt: int | None = None
    output: Any = None
    error: Failure | None = None
    compensation: str | None = None


class Stages:
    """The table `stages`."""

    name: Final = "stages"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write the stages that differ from before the batch."""
        new: list[_Stage] = []
        moved: list[_Stage] = []
        for run in batch.runs.values():
            (new if run.before is None else moved).extend(_rows(run))
        if new:
            await copy(session, "stages", _COLUMNS, (_new_row(batch.partition, row) for row in new))
        if moved:
            await session.execute(_SQL["write"], batch.partition, document(moved))

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


def _new_row(partition: int, row: _Stage) -> bytes:
    progress = finite(row.progress)
    return b"".join(
        (
            _numbers(_COUNT, 4, partition, 4, row.ordinal, 4, row.weight, 4, row.attempt, 4, row.tries, 8, progress),
            word(row.workflow_id),
            word(row.stage),
            word(row.status),
            optional_word(row.worker),
            instant_field(row.started_at),
            instant_field(row.finished_at),
            instant_field(row.retry_at),
            integer_field(row.output_attempt),
            jsonb_field(row.output),
            fit_jsonb_field(row.error),
            optional_word(row.compensation),
        )
    )
