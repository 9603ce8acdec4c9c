"""Compensation: how a run that failed or was cancelled undoes what its stages did before it ends. Pure, like `decide`.

Stages are undone one at a time, those that completed last first, and never while a handler that was told to stop may still be
at work: until its last report, the end of its lease, or the end of the grace. A stage that can't be undone does not keep the
others from it. Definitions without compensation know nothing of all this: their runs end at once.
"""

from __future__ import annotations

from tailrace.core.commands import FireTimer, Report
from tailrace.core.errors import Undecodable
from tailrace.core.events import (
    CancelGraceEnded,
    CompensationStarted,
    Event,
    ReportIgnored,
    TaskStopped,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowStalled,
)
from tailrace.core.ids import TaskId, task_id_of
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.dispatching import dispatch, dispatch_again, fold
from tailrace.core.workflow.evolve import evolve
from tailrace.core.workflow.state import Compensation, Ending, ToldTask, WorkflowState


def end(pipeline: Pipeline, state: WorkflowState, ending: Ending, now: int) -> list[Event]:
    """The run ends: at once, or after what there is to undo."""
    if not _has_to_undo(pipeline, state):
        return _ended(state, ending)
    compensation = state.compensation or Compensation()
    waits = compensation.told or any(stage.task is not None for stage in state.stages.values())
    started = CompensationStarted(
        outcome=ending.outcome,
        stages=compensation.left,
        error=ending.error,
        stage=ending.stage,
        reason=ending.reason,
        # A cancellation ends a pause, a failure does not: then the grace counts from the pause, and moves on when it ends.
        grace_until=grace_until(pipeline, state, now, paused=ending.outcome == "failed") if waits else None,
    )
    return [started, *undo(pipeline, evolve(state, started, now), now)]


def undo(pipeline: Pipeline, state: WorkflowState, now: int) -> list[Event]:
    """What comes next in a run that is ending: wait, undo one more stage, or the end."""
    compensation = state.compensation
    assert compensation is not None
    assert compensation.ending is not None
    if compensation.grace_until is not None:
        return []
    current = compensation.current
    if not current and not compensation.left:
        return _ended(state, compensation.ending, compensation.failed)
    if state.status == "paused":
        return []
    if not current:
        return [dispatch(pipeline, state, compensation.left[0], now, compensation=True)]
    stage = state.stages[current]
    if stage.task is not None and stage.task.lost:
        return [dispatch_again(pipeline, state, current, stage.task, stage.task.lost, now)]
    if stage.task is None and stage.retry_at is not None and stage.retry_at <= now:
        return [dispatch(pipeline, state, current, now, compensation=True)]
    return []


def grace_until(pipeline: Pipeline, state: WorkflowState, now: int, *, paused: bool = True) -> int:
    """Until when handlers that are told to stop now are waited for."""
    base = state.paused_at if paused and state.paused_at is not None else now
    return base + pipeline.cancel_grace_us


def end_grace(pipeline: Pipeline, state: WorkflowState, timer: FireTimer, now: int) -> list[Event]:
    """Go on without the handlers that have not stopped; a timer of another round, or one that was moved, means nothing."""
    compensation = state.compensation
    if compensation is None or compensation.grace_until is None or timer.attempt != state.round:
        return []
    if compensation.grace_until > now:
        return []
    tasks = tuple(_task_id(state, told.stage, told.attempt) for told in compensation.told if told.awaited)
    ended = CancelGraceEnded(tasks=tasks)
    return [ended, *undo(pipeline, evolve(state, ended, now), now)]


def late(pipeline: Pipeline, state: WorkflowState, report: Report, reason: str, now: int) -> list[Event]:
    """What a report on a task means that is not open, because of `reason`.

    That its handler stopped is worth an event where compensation has to know. A handler that did its work all the same, of a
    stage that has no result otherwise, has done something that has to be undone like the rest.
    """
    ignored: list[Event] = []
    if report.kind not in {"started", "progressed", "cancelled", "lost", "stopped"}:
        ignored = [ReportIgnored(task_id=report.task_id, report=report.kind, reason=reason, worker=report.worker)]
    told = _told(state, report.task_id)
    if told is None or report.kind not in {"completed", "failed", "cancelled", "stopped"}:
        return ignored
    completed = report.kind == "completed" and _is_undone_later(pipeline, state, told.stage)
    stopped = TaskStopped(
        task_id=report.task_id,
        stage=told.stage,
        attempt=told.attempt,
        worker=report.worker,
        completed=completed,
        output=report.output if completed else None,
    )
    events: list[Event] = [stopped] if completed else [*ignored, stopped]
    after = fold(state, events, now)
    return events if after.ending is None else [*events, *undo(pipeline, after, now)]


def _has_to_undo(pipeline: Pipeline, state: WorkflowState) -> bool:
    """Whether any stage did, or may be about to do, what has to be undone."""
    if not pipeline.compensations:
        return False
    compensation = state.compensation or Compensation()
    working = {name for name, stage in state.stages.items() if stage.task is not None}
    working |= {told.stage for told in compensation.told}
    return bool(compensation.left) or not working.isdisjoint(pipeline.compensations)


def _is_undone_later(pipeline: Pipeline, state: WorkflowState, stage: str) -> bool:
    """Whether a stage that did its work after it was told to stop is undone: once in a round, and with its own result."""
    compensation = state.compensation
    assert compensation is not None
    over = {*compensation.compensated, *compensation.failed, compensation.current}
    return stage in pipeline.compensations and stage not in over and state.stages[stage].status != "completed"


def _told(state: WorkflowState, task_id: str) -> ToldTask | None:
    """The closed task with that id, if its handler may still be at work."""
    if state.compensation is None:
        return None
    try:
        parsed = TaskId.parse(task_id)
    except Undecodable:
        return None
    if parsed.item is not None or parsed.workflow_id != state.workflow_id:
        return None
    place = (parsed.stage, parsed.attempt)
    return next((told for told in state.compensation.told if (told.stage, told.attempt) == place), None)


def _ended(state: WorkflowState, ending: Ending, not_compensated: tuple[str, ...] = ()) -> list[Event]:
    """The last events of a round that did not complete. What is used up is flagged where it is decided (ADR 5)."""
    if ending.outcome == "cancelled":
        return [WorkflowCancelled(reason=ending.reason, not_compensated=not_compensated)]
    error, stage = ending.error, ending.stage
    assert error is not None
    failed = WorkflowFailed(error=error, stage=stage, not_compensated=not_compensated)
    if stage is None or error.reason not in {"retry-budget", "poison"}:
        return [failed]
    stalled = WorkflowStalled(
        cause=error.reason,
        hop="worker",
        summary=error.message,
        suggestion=f"tailrace retry {state.workflow_id} --from-stage {stage}",
        evidence={
            "task_id": _task_id(state, stage, ending.attempt),
            "attempts": state.stages[stage].tries,
            "last_reason": error.details.get("last_reason", error.reason),
        },
    )
    return [stalled, failed]


def _task_id(state: WorkflowState, stage: str, attempt: int) -> str:
    return task_id_of(state.workflow_id, stage, attempt)
