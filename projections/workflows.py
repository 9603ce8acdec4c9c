"""`workflows`: one row per run, a function of its folded state and its first event."""

from __future__ import annotations

from typing import Any, Final

from tailrace.core.clock import to_rfc3339
from tailrace.core.ids import trace_id_of
from tailrace.core.workflow.state import Stall, WorkflowState
from tailrace.projections.batch import Batch
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import jsonb, shown, text, time

_SQL = statements("workflows")


class Workflows:
    """The table `workflows`."""

    name: Final = "workflows"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Insert runs that begin in the batch, update those that go on."""
        begun: list[tuple[Any, ...]] = []
        moved: list[tuple[Any, ...]] = []
        for run in batch.runs.values():
            state, created = run.state, run.created
            if state is None or state is run.before:
                continue
            if created is None:
                moved.append(_moving(state))
                continue
            begun.append(
                (
                    *_moving(state),
                    batch.partition,
                    text(created.type),
                    text(created.name),
                    text(created.description),
                    text(created.requirements),
                    text(created.priority),
                    state.definition,
                    trace_id_of(state.traceparent),
                    jsonb(created.labels) or "{}",
                    jsonb(created.input),
                    time(state.created_at),
                )
            )
        if begun:
            await session.execute(_SQL["begin"], *zip(*begun, strict=True))
        if moved:
            await session.execute(_SQL["move"], *zip(*moved, strict=True))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one run."""
        await session.execute(_SQL["clear"], partition, workflow_id)


def _moving(state: WorkflowState) -> tuple[Any, ...]:
    """What of a row may change after the first event."""
    return (
        state.workflow_id,
        state.status,
        state.current_stage,
        state.progress_percentage,
        state.version,
        state.round,
        shown(state.error),
        _stall(state.stall),
        time(state.updated_at),
        time(state.completed_at),
    )


def _stall(stall: Stall | None) -> str | None:
    if stall is None:
        return None
    return jsonb(
        {
            "cause": text(stall.cause),
            "hop": text(stall.hop),
            "since": to_rfc3339(stall.since),
            "summary": text(stall.summary),
            "suggestion": text(stall.suggestion),
        }
    )
