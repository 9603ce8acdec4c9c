"""`evolve`: the state after one event. Total over events; the same events give the same state, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tailrace.core.events import (
    CancelGraceEnded,
    CompensationFailed,
    CompensationStarted,
    Event,
    Failure,
    ReportIgnored,
    StageCompensated,
    StageCompleted,
    StageFailed,
    StallCleared,
    TaskDispatched,
    TaskFailed,
    TaskLost,
    TaskProgressed,
    TaskRedispatched,
    TaskStarted,
    TaskStopped,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowCreated,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
    WorkflowStalled,
)
from tailrace.core.workflow.state import (
    REMEMBERED_COMMANDS,
    Compensation,
    Ending,
    OpenTask,
    StageState,
    StageStatus,
    Stall,
    ToldTask,
    WorkflowState,
    WorkflowStatus,
)


def create(event: WorkflowCreated, *, workflow_id: str, at: int, traceparent: str = "") -> WorkflowState:
    """The state after a run's first event."""
    return WorkflowState(
        workflow_id=workflow_id,
        version=1,
        definition=event.definition,
        type=event.type,
        priority=event.priority,
        status="initiated",
        stages={stage.name: StageState(weight=stage.weight) for stage in event.stages},
        created_at=at,
        updated_at=at,
        traceparent=traceparent,
    )


def evolve(state: WorkflowState, event: Event, at: int) -> WorkflowState:
    """The state after `event`, which happened at `at` (microseconds since the epoch)."""
    changed = _APPLY[type(event)](state, event, at)
    return replace(changed, version=state.version + 1, updated_at=at)


def remember(state: WorkflowState, command_id: str, *, version: int) -> WorkflowState:
    """The state with the outcome of a command: the version of its first event."""
    return replace(state, commands=(*state.commands[1 - REMEMBERED_COMMANDS :], (command_id, version)))


# (The fields that change go to `replace` as they are named: through the `**` of a function it takes three times as long.)


def _with_stage(state: WorkflowState, name: str, stage: StageState) -> dict[str, StageState]:
    """The stages, with this one as it is now."""
    stages = state.stages.copy()
    stages[name] = stage
    return stages


def _with_task(state: WorkflowState, name: str, task: OpenTask) -> dict[str, StageState]:
    return _with_stage(state, name, replace(state.stages[name], task=task))


def _open_task(state: WorkflowState, name: str) -> OpenTask:
    task = state.stages[name].task
    assert task is not None, f"stage {name!r} has no open task"
    return task


def _dispatched(state: WorkflowState, event: TaskDispatched, at: int) -> WorkflowState:
    stage = state.stages[event.stage]
    task = OpenTask(attempt=event.attempt, dispatched_at=at, start_due_at=event.start_due_at)
    if event.compensation:
        stages = _with_stage(state, event.stage, replace(stage, attempt=event.attempt, task=task, retry_at=None))
        tries = 1 if state.undoing != event.stage else _compensation(state).tries + 1
        return replace(state, stages=stages, compensation=_undoing(state, current=event.stage, tries=tries))
    stage = replace(
        stage,
        status="running",
        attempt=event.attempt,
        tries=stage.tries + 1,
        task=task,
        retry_at=None,
        started_at=at if stage.started_at is None else stage.started_at,
    )
    return replace(state, stages=_with_stage(state, event.stage, stage))


def _redispatched(state: WorkflowState, event: TaskRedispatched, at: int) -> WorkflowState:
    task = replace(
        _open_task(state, event.stage),
        dispatched_at=at,
        start_due_at=event.start_due_at,
        started_at=None,
        due_at=None,
        worker="",
        delivery=0,
        lost="",
    )
    return replace(state, stages=_with_task(state, event.stage, task))


def _lost(state: WorkflowState, event: TaskLost, at: int) -> WorkflowState:
    task = replace(_open_task(state, event.stage), lost=event.reason)
    return replace(state, stages=_with_task(state, event.stage, task))


def _started(state: WorkflowState, event: TaskStarted, at: int) -> WorkflowState:
    task = replace(
        _open_task(state, event.stage),
        started_at=at,
        due_at=event.due_at,
        worker=event.worker,
        delivery=event.delivery,
    )
    status = "running" if state.status == "initiated" else state.status
    return replace(state, stages=_with_task(state, event.stage, task), started=True, status=status)


def _progressed(state: WorkflowState, event: TaskProgressed, at: int) -> WorkflowState:
    task = replace(_open_task(state, event.stage), fraction=event.fraction)
    return replace(state, stages=_with_task(state, event.stage, task))


def _failed_task(state: WorkflowState, event: TaskFailed, at: int) -> WorkflowState:
    error = _error(state, event.stage, event.error)
    stage = replace(state.stages[event.stage], task=None, retry_at=event.retry_at, error=error)
    stages = _with_stage(state, event.stage, stage)
    if not event.told:
        return replace(state, stages=stages)
    told = ToldTask(stage=event.stage, attempt=event.attempt, awaited=event.grace_until is not None)
    compensation = _undoing(state, told=(*_compensation(state).told, told), grace_until=event.grace_until)
    return replace(state, stages=stages, compensation=compensation)


def _error(state: WorkflowState, stage: str, error: Failure | None) -> Failure | None:
    """The error a stage shows: one that has an outcome other than its result keeps it while it is undone."""
    if stage == state.undoing and state.stages[stage].status != "completed":
        return state.stages[stage].error
    return error


def _completed_stage(state: WorkflowState, event: StageCompleted, at: int) -> WorkflowState:
    stage = state.stages[event.stage]
    task = stage.task
    stage = replace(
        stage,
        status="completed",
        task=None,
        retry_at=None,
        error=None,
        output_attempt=event.attempt,
        finished_at=at,
        worker=event.worker or (task.worker if task is not None else ""),
    )
    stages = _with_stage(state, event.stage, stage)
    if not event.undoable:
        return replace(state, stages=stages)
    return replace(state, stages=stages, compensation=_undoing(state, done=_done(state, event.stage, event.attempt)))


def _failed_stage(state: WorkflowState, event: StageFailed, at: int) -> WorkflowState:
    stage = state.stages[event.stage]
    stage = replace(stage, status="failed", task=None, retry_at=None, error=event.error, finished_at=at)
    return replace(state, stages=_with_stage(state, event.stage, stage))


def _compensation(state: WorkflowState) -> Compensation:
    return state.compensation or Compensation()


def _undoing(state: WorkflowState, **changes: Any) -> Compensation:
    return replace(_compensation(state), **changes)


def _done(state: WorkflowState, stage: str, attempt: int) -> tuple[tuple[str, int], ...]:
    """What there is to undo, with one stage as the last that did its work."""
    return (*(place for place in _compensation(state).done if place[0] != stage), (stage, attempt))


def _compensation_started(state: WorkflowState, event: CompensationStarted, at: int) -> WorkflowState:
    open_tasks = [(name, stage.task.attempt) for name, stage in state.stages.items() if stage.task is not None]
    told = [*((told.stage, told.attempt) for told in _compensation(state).told), *open_tasks]
    attempt = 0 if event.stage is None else state.stages[event.stage].attempt
    compensation = _undoing(
        state,
        told=tuple(ToldTask(stage=stage, attempt=attempt, awaited=True) for stage, attempt in told),
        ending=Ending(
            outcome=event.outcome, error=event.error, stage=event.stage, attempt=attempt, reason=event.reason
        ),
        grace_until=event.grace_until,
    )
    cancelled = event.outcome == "cancelled"
    stages = _close(state, at, running="cancelled", pending="cancelled" if cancelled else "skipped")
    if cancelled and state.paused_at is not None:
        # Nobody would resume what he cancelled.
        return replace(state, stages=stages, compensation=compensation, status=_unpaused(state), paused_at=None)
    return replace(state, stages=stages, compensation=compensation)


def _stopped(state: WorkflowState, event: TaskStopped, at: int) -> WorkflowState:
    before = _compensation(state)
    told = tuple(task for task in before.told if (task.stage, task.attempt) != (event.stage, event.attempt))
    compensation = replace(
        before,
        told=told,
        done=_done(state, event.stage, event.attempt) if event.completed else before.done,
        grace_until=before.grace_until if any(task.awaited for task in told) else None,
    )
    return replace(state, compensation=compensation)


def _grace_ended(state: WorkflowState, event: CancelGraceEnded, at: int) -> WorkflowState:
    told = tuple(replace(task, awaited=False) for task in _compensation(state).told)
    return replace(state, compensation=_undoing(state, told=told, grace_until=None))


def _compensated(state: WorkflowState, event: StageCompensated, at: int) -> WorkflowState:
    error = _error(state, event.stage, None)
    stages = _with_stage(state, event.stage, replace(state.stages[event.stage], task=None, retry_at=None, error=error))
    compensated = (*_compensation(state).compensated, event.stage)
    return replace(state, stages=stages, compensation=_undoing(state, current="", tries=0, compensated=compensated))


def _compensation_failed(state: WorkflowState, event: CompensationFailed, at: int) -> WorkflowState:
    error = _error(state, event.stage, event.error)
    stages = _with_stage(state, event.stage, replace(state.stages[event.stage], task=None, retry_at=None, error=error))
    failed = (*_compensation(state).failed, event.stage)
    return replace(state, stages=stages, compensation=_undoing(state, current="", tries=0, failed=failed))


def _settled(state: WorkflowState) -> Compensation | None:
    """What a run that has ended keeps for the next round: what was done, and what of it was undone."""
    if state.compensation is None:
        return None
    kept = state.compensation
    settled = Compensation(done=kept.done, compensated=kept.compensated, failed=kept.failed)
    return settled if settled != Compensation() else None


def _reopened(state: WorkflowState, reset: tuple[str, ...]) -> Compensation | None:
    """What there is to undo in the next round: of the stages that keep their result."""
    done = tuple(place for place in _compensation(state).done if place[0] not in reset)
    return Compensation(done=done) if done else None


def _unpaused(state: WorkflowState) -> WorkflowStatus:
    return "running" if state.started else "initiated"


def _paused(state: WorkflowState, event: WorkflowPaused, at: int) -> WorkflowState:
    return replace(state, status="paused", paused_at=at)


def _resumed(state: WorkflowState, event: WorkflowResumed, at: int) -> WorkflowState:
    """Every clock that stood still goes on: due times move by the length of the pause."""
    shift = at - (state.paused_at or at)

    def moved(due_at: int | None) -> int | None:
        return None if due_at is None else due_at + shift

    stages = {
        name: replace(
            stage,
            retry_at=moved(stage.retry_at),
            task=stage.task
            and replace(stage.task, due_at=moved(stage.task.due_at), start_due_at=moved(stage.task.start_due_at)),
        )
        for name, stage in state.stages.items()
    }
    resumed = replace(state, status=_unpaused(state), paused_at=None, stages=stages)
    if state.compensation is None or state.compensation.grace_until is None:
        return resumed
    return replace(resumed, compensation=_undoing(state, grace_until=moved(state.compensation.grace_until)))


def _retried(state: WorkflowState, event: WorkflowRetried, at: int) -> WorkflowState:
    reset = {
        name: StageState(weight=stage.weight, attempt=stage.attempt)
        for name, stage in state.stages.items()
        if name in event.reset
    }
    return replace(
        state,
        status=_unpaused(state),
        round=event.round,
        stages={**state.stages, **reset},
        completed_at=None,
        paused_at=None,
        error=None,
        stall=None,
        compensation=_reopened(state, event.reset),
    )


def _close(state: WorkflowState, at: int, *, running: StageStatus, pending: StageStatus) -> dict[str, StageState]:
    """Stages without outcome get one; open tasks are closed."""
    outcome: dict[str, StageStatus] = {"running": running, "pending": pending}
    return {
        name: replace(stage, status=outcome[stage.status], task=None, retry_at=None, finished_at=at)
        if stage.status in outcome
        else stage
        for name, stage in state.stages.items()
    }


def _completed(state: WorkflowState, event: WorkflowCompleted, at: int) -> WorkflowState:
    return replace(state, status="completed", completed_at=at, paused_at=None, compensation=_settled(state))


def _failed(state: WorkflowState, event: WorkflowFailed, at: int) -> WorkflowState:
    stages = _close(state, at, running="cancelled", pending="skipped")
    return replace(
        state,
        status="failed",
        completed_at=at,
        paused_at=None,
        error=event.error,
        stages=stages,
        compensation=_settled(state),
    )


def _cancelled(state: WorkflowState, event: WorkflowCancelled, at: int) -> WorkflowState:
    stages = _close(state, at, running="cancelled", pending="cancelled")
    return replace(
        state, status="cancelled", completed_at=at, paused_at=None, stages=stages, compensation=_settled(state)
    )


def _stalled(state: WorkflowState, event: WorkflowStalled, at: int) -> WorkflowState:
    stall = Stall(cause=event.cause, hop=event.hop, since=at, summary=event.summary, suggestion=event.suggestion)
    return replace(state, stall=stall)


def _cleared(state: WorkflowState, event: StallCleared, at: int) -> WorkflowState:
    return replace(state, stall=None)


def _unchanged(state: WorkflowState, event: Event, at: int) -> WorkflowState:
    return state


def _already_created(state: WorkflowState, event: WorkflowCreated, at: int) -> WorkflowState:
    raise ValueError(f"workflow {state.workflow_id} is created twice in its own history")


_APPLY: dict[type[Event], Callable[[WorkflowState, Any, int], WorkflowState]] = {
    WorkflowCreated: _already_created,
    TaskDispatched: _dispatched,
    TaskRedispatched: _redispatched,
    TaskLost: _lost,
    TaskStarted: _started,
    TaskProgressed: _progressed,
    TaskFailed: _failed_task,
    TaskStopped: _stopped,
    StageCompleted: _completed_stage,
    StageFailed: _failed_stage,
    CompensationStarted: _compensation_started,
    CancelGraceEnded: _grace_ended,
    StageCompensated: _compensated,
    CompensationFailed: _compensation_failed,
    WorkflowPaused: _paused,
    WorkflowResumed: _resumed,
    WorkflowRetried: _retried,
    WorkflowCompleted: _completed,
    WorkflowFailed: _failed,
    WorkflowCancelled: _cancelled,
    ReportIgnored: _unchanged,
    WorkflowStalled: _stalled,
    StallCleared: _cleared,
}
