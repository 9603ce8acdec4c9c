"""`workflows`: one row per run, a function of its folded state and its first event."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from msgspec.structs import asdict

from tailrace.core.clock import to_rfc3339
from tailrace.core.events import Failure, WorkflowCreated
from tailrace.core.ids import trace_id_of
from tailrace.core.workflow.state import Stall, WorkflowState
from tailrace.projections.batch import Batch
from tailrace.projections.fold import Run
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document

_SQL = statements("workflows")


class _Moving(Row, frozen=True, kw_only=True, omit_defaults=True):
    """What of a row may change with every event, without what is null.

    `stage_outputs` are those that were given since, `withdrawn` the stages whose output does not count any more.
    """

    workflow_id: str
    status: str
    current_stage: str | None = None
    progress_percentage: int
    version: int
    round: int
    error: Failure | None = None
    stall: dict[str, Any] | None = None
    stage_outputs: dict[str, Any]
    withdrawn: list[str]
    updated_at: int
    completed_at: int | None = None


class _Whole(_Moving, frozen=True, kw_only=True):
    """A whole row, which its run's first event is needed for."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"input"})

    type: str
    name: str
    description: str
    requirements: str
    priority: str
    definition: str
    trace_id: str | None
    labels: dict[str, str]
    input: dict[str, Any]
    created_at: int


class Workflows:
    """The table `workflows`."""

    name: Final = "workflows"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Insert runs that begin in the batch, update those that go on."""
        begun, moved = [], []
        for run in batch.runs.values():
            if run.state is None or run.state is run.before:
                continue
            if run.created is not None:
                begun.append(_whole(run, run.state, run.created))
            else:
                moved.append(_moving(run, run.state))
        if begun:
            await session.execute(_SQL["begin"], batch.partition, document(begun))
        if moved:
            await session.execute(_SQL["move"], document(moved))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _whole(run: Run, state: WorkflowState, created: WorkflowCreated) -> _Whole:
    return _Whole(
        **asdict(_moving(run, state)),
        type=created.type,
        name=created.name,
        description=created.description,
        requirements=created.requirements,
        priority=created.priority,
        definition=state.definition,
        trace_id=trace_id_of(state.traceparent),
        labels=created.labels,
        input=created.input,
        created_at=state.created_at,
    )


def _moving(run: Run, state: WorkflowState) -> _Moving:
    before = {} if run.before is None else run.before.stages
    return _Moving(
        workflow_id=state.workflow_id,
        status=state.status,
        current_stage=state.current_stage,
        progress_percentage=state.progress_percentage,
        version=state.version,
        round=state.round,
        error=state.error,
        stall=None if state.stall is None else _stall(state.stall),
        stage_outputs={
            stage: output
            for (stage, attempt), output in run.outputs.items()
            if state.stages[stage].output_attempt == attempt
        },
        withdrawn=[
            name
            for name, stage in before.items()
            if stage.output_attempt is not None and state.stages[name].output_attempt != stage.output_attempt
        ],
        updated_at=state.updated_at,
        completed_at=state.completed_at,
    )


def _stall(stall: Stall) -> dict[str, Any]:
    return {
        "cause": stall.cause,
        "hop": stall.hop,
        "since": to_rfc3339(stall.since),
        "summary": stall.summary,
        "suggestion": stall.suggestion,
    }
