"""`decide`: what a command means for a run, as events. Pure: the same pipeline, state, command and `now` give the same.

`settle` is the same with the state that the events lead to, which deciding has to know in any case.

A command that the state forbids raises `CommandRefused`. A report or timer that means nothing any more gives no event, or
`ReportIgnored` where somebody's work was dropped; it never raises, because it has to leave its stream.
"""

from __future__ import annotations

from typing import Final, assert_never

from tailrace.core.clock import to_us
from tailrace.core.commands import (
    ApplyReport,
    CancelWorkflow,
    Command,
    CreateWorkflow,
    FireTimer,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    Report,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.errors import CommandRefused, InvalidInput, Undecodable
from tailrace.core.events import (
    CancelGraceEnded,
    CompensationFailed,
    CompensationStarted,
    Event,
    Failure,
    PlannedStage,
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
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowCreated,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
    WorkflowStalled,
)
from tailrace.core.ids import TaskId, task_id_of
from tailrace.core.workflow.compensation import end, end_grace, grace_until, late, undo
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.dispatching import Course, dispatch, dispatch_again, fold, work_of
from tailrace.core.workflow.evolve import create
from tailrace.core.workflow.policy import retry_delay_us
from tailrace.core.workflow.state import Ending, OpenTask, StageState, WorkflowState

#: Events that show that a run moves; after one of them a standing stall is cleared.
_PROGRESS: Final = (
    TaskDispatched,
    TaskRedispatched,
    TaskStarted,
    TaskFailed,
    StageCompleted,
    CompensationStarted,
    CancelGraceEnded,
    StageCompensated,
    CompensationFailed,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
    WorkflowCancelled,
)

#: Reports that show that somebody works on a task; one of another kind is of a later build.
_OF_TASKS: Final = frozenset({"started", "progressed", "completed", "failed", "poison", "cancelled"})


def decide(pipeline: Pipeline, state: WorkflowState | None, command: Command, now: int) -> list[Event]:
    """The events that `command` leads to at `now` (microseconds since the epoch).

    `state` is None only for `CreateWorkflow`. Raises `CommandRefused` or `InvalidInput` for what a person asked and can't have.
    """
    return settle(pipeline, state, command, now).events


def settle(
    pipeline: Pipeline, state: WorkflowState | None, command: Command, now: int, traceparent: str = ""
) -> Course:
    """As `decide`, with the state after the events. `traceparent` is that of a run that begins."""
    if type(command) is CreateWorkflow:
        if state is not None:
            raise CommandRefused("create", state.status, allowed_commands(state), "the workflow exists already")
        return _create(pipeline, command, now, traceparent)
    if state is None:
        raise InvalidInput(f"{type(command).__name__} needs a workflow")
    course = Course(state, now)
    _decide(pipeline, course, command, now)
    if state.stall is not None and any(isinstance(event, _PROGRESS) for event in course.events):
        cleared = Course(state, now)
        cleared.take(StallCleared(cause=state.stall.cause), *course.events)
        return cleared
    return course


def allowed_commands(state: WorkflowState) -> tuple[str, ...]:
    """What a person may ask of a run in this state."""
    match state.status:
        case "initiated" | "running":
            return ("pause",) if state.ending is not None else ("cancel", "pause")
        case "paused":
            return ("resume",) if state.ending is not None else ("cancel", "resume")
        case "completed" | "failed" | "cancelled":
            return ("retry",)
        case _:
            assert_never(state.status)


def _decide(pipeline: Pipeline, course: Course, command: Command, now: int) -> None:
    state = course.state
    match command:
        case ApplyReport(report=report):
            _apply_report(pipeline, course, report, now)
        case FireTimer():
            course.take(*_fire_timer(pipeline, state, command, now))
        case CancelWorkflow(reason=reason):
            _require(state, "cancel")
            course.take(*end(pipeline, state, Ending(outcome="cancelled", reason=reason), now))
        case PauseWorkflow(reason=reason):
            _require(state, "pause")
            course.take(WorkflowPaused(reason=reason))
        case ResumeWorkflow():
            _require(state, "resume")
            course.take(WorkflowResumed())
            course.take(*_advance(pipeline, course.state, now))
        case RetryWorkflow(from_stage=from_stage):
            course.take(_retry(pipeline, state, from_stage))
            course.take(*_advance(pipeline, course.state, now))
        case FlagStall():
            course.take(*_flag(state, command))
        case RedispatchTask(task_id=task_id, reason=reason):
            course.take(*_redispatch(pipeline, state, task_id, reason, now))
        case _:
            raise TypeError(f"no decision is known for {type(command).__name__}")


def _require(state: WorkflowState, command: str) -> None:
    allowed = allowed_commands(state)
    if command not in allowed:
        detail = ""
        if state.ending is not None:
            detail = f"it is ending as {state.ending.outcome}; before that, what its stages did is undone"
        raise CommandRefused(command, state.status, allowed, detail)


def _create(pipeline: Pipeline, command: CreateWorkflow, now: int, traceparent: str) -> Course:
    created = WorkflowCreated(
        definition=pipeline.hash,
        type=command.type,
        name=command.name,
        stages=tuple(PlannedStage(stage.name, stage.weight) for stage in pipeline.definition.stages),
        description=command.description,
        requirements=command.requirements,
        priority=command.priority,
        input=command.input,
        labels=command.labels,
        body_hash=command.body_hash,
    )
    course = Course(create(created, workflow_id=command.workflow_id, at=now, traceparent=traceparent), now)
    course.events.append(created)
    course.take(*_advance(pipeline, course.state, now))
    return course


def _advance(pipeline: Pipeline, state: WorkflowState, now: int) -> list[Event]:
    """Dispatch every stage whose needs are met, and what was lost in a pause; end the run when all stages completed."""
    if state.terminal:
        return []
    if state.compensation is not None and state.compensation.ending is not None:
        return undo(pipeline, state, now)
    waiting = {name: stage for name, stage in state.stages.items() if stage.status != "completed"}
    if not waiting:
        return [WorkflowCompleted()]
    if state.status == "paused":
        return []
    events: list[Event] = []
    for name, stage in waiting.items():
        task = stage.task
        if task is not None:
            if task.lost:
                events.append(dispatch_again(pipeline, state, name, task, task.lost, now))
        elif stage.status == "pending":
            if waiting.keys().isdisjoint(pipeline.stages[name].needs):
                events.append(dispatch(pipeline, state, name, now))
        elif stage.status == "running" and stage.retry_at is not None and stage.retry_at <= now:
            events.append(dispatch(pipeline, state, name, now))
    return events


def _apply_report(pipeline: Pipeline, course: Course, report: Report, now: int) -> None:
    state = course.state
    found = _open_task(state, report.task_id)
    if isinstance(found, str):
        course.take(*late(pipeline, state, report, found, now))
        return
    name, _, task = found
    if report.kind == "lost":
        course.take(*_redispatch(pipeline, state, report.task_id, "entry-gone", now))
        return
    if report.kind in _OF_TASKS and _is_news_of_start(task, report):
        course.take(_start(pipeline, state, name, task, report, now))
    match report.kind:
        case "started":
            pass
        case "progressed":
            fraction = min(max(report.fraction, task.fraction), 1.0)
            course.take(
                TaskProgressed(
                    task_id=report.task_id, stage=name, attempt=task.attempt, fraction=fraction, message=report.message
                )
            )
        case "completed":
            course.take(_completed(pipeline, state, name, task, report))
            course.take(*_advance(pipeline, course.state, now))
        case "failed" | "poison" | "cancelled":
            error = report.error or Failure(
                reason="cancelled-by-worker" if report.kind == "cancelled" else report.kind,
                message=report.message,
                retryable=report.kind != "poison",
            )
            course.take(*_fail(pipeline, course.state, name, error, worker=report.worker, now=now))
        case _:
            course.take(
                ReportIgnored(task_id=report.task_id, report=report.kind, reason="unknown-report", worker=report.worker)
            )


def _open_task(state: WorkflowState, task_id: str) -> tuple[str, StageState, OpenTask] | str:
    """The stage and open task that `task_id` names, or the reason why there is none."""
    for name, stage in state.stages.items():
        if stage.task is not None and task_id == task_id_of(state.workflow_id, name, stage.task.attempt):
            return name, stage, stage.task
    try:
        parsed = TaskId.parse(task_id)
    except Undecodable:
        return "unknown-task"
    known = state.stages.get(parsed.stage)
    if known is None or parsed.item is not None or parsed.workflow_id != state.workflow_id:
        return "unknown-task"
    return "unknown-task" if parsed.attempt > known.attempt else "task-closed"


def _is_news_of_start(task: OpenTask, report: Report) -> bool:
    """True when the report shows a start that no event tells of yet: the first, or one of a later delivery."""
    if report.kind == "poison" or not report.worker:
        return False
    return task.started_at is None or (report.worker, report.delivery) != (task.worker, task.delivery)


def _start(
    pipeline: Pipeline, state: WorkflowState, name: str, task: OpenTask, report: Report, now: int
) -> TaskStarted:
    timeout = work_of(pipeline, state, name).timeout_seconds
    # While the run is paused its clocks stand still, so the limit counts from the pause and moves on when it ends.
    base = now if state.paused_at is None else state.paused_at
    return TaskStarted(
        task_id=report.task_id,
        stage=name,
        attempt=task.attempt,
        worker=report.worker,
        delivery=report.delivery,
        build=report.build,
        due_at=None if timeout is None else base + to_us(timeout),
    )


def _completed(
    pipeline: Pipeline, state: WorkflowState, name: str, task: OpenTask, report: Report
) -> StageCompleted | StageCompensated:
    if state.compensation is not None and state.compensation.current == name:
        return StageCompensated(stage=name, task_id=report.task_id, attempt=task.attempt, worker=report.worker)
    return StageCompleted(
        stage=name,
        task_id=report.task_id,
        attempt=task.attempt,
        worker=report.worker,
        output=report.output,
        undoable=name in pipeline.compensations,
    )


def _fail(
    pipeline: Pipeline, state: WorkflowState, name: str, error: Failure, *, worker: str, now: int, told: bool = False
) -> list[Event]:
    """An attempt failed: wait for the next one, or fail the stage and with it the run.

    `told`: its handler may still be at work. Only compensation waits for that: elsewhere it is not worth a word.
    """
    stage = state.stages[name]
    assert stage.task is not None
    attempt = stage.task.attempt
    undoing = name == state.undoing
    task_id = task_id_of(state.workflow_id, name, attempt)
    policy = work_of(pipeline, state, name).retry
    tries = state.compensation.tries if undoing and state.compensation is not None else stage.tries
    retry_at = None
    if error.retryable and tries < policy.max_attempts:
        base = now if state.paused_at is None else state.paused_at
        retry_at = base + retry_delay_us(policy, tries, task_id)
    failed = TaskFailed(
        task_id=task_id,
        stage=name,
        attempt=attempt,
        error=error,
        worker=worker,
        retry_at=retry_at,
        told=told and bool(pipeline.compensations),
        grace_until=grace_until(pipeline, state, now) if told and undoing else None,
    )
    if retry_at is not None:
        return [failed]
    final = error
    if error.retryable:
        what = f"compensation of stage {name!r}" if undoing else f"stage {name!r}"
        final = Failure(
            reason="retry-budget",
            message=f"{what} failed {tries} of {policy.max_attempts} attempts; the last: {error.message}",
            details={"attempts": tries, "last_reason": error.reason, "last_details": error.details},
        )
    events: list[Event]
    if undoing:
        events = [failed, CompensationFailed(stage=name, error=final)]
        return [*events, *undo(pipeline, fold(state, events, now), now)]
    events = [failed, StageFailed(stage=name, error=final)]
    ending = Ending(outcome="failed", error=final, stage=name, attempt=attempt)
    return [*events, *end(pipeline, fold(state, events, now), ending, now)]


def _fire_timer(pipeline: Pipeline, state: WorkflowState, timer: FireTimer, now: int) -> list[Event]:
    """A timer that was cleared, moved or belongs to another attempt means nothing."""
    # The store found it due, and it leaves with this decision: a clock that was set back since then must not drop it.
    now = max(now, timer.due_at)
    if state.terminal or state.status == "paused":
        return []
    if timer.kind == "grace":
        return end_grace(pipeline, state, timer, now)
    stage = state.stages.get(timer.stage)
    if stage is None:
        return []
    task = stage.task
    if timer.kind == "retry":
        if task is not None or stage.retry_at is None or stage.retry_at > now or stage.attempt != timer.attempt:
            return []
        return undo(pipeline, state, now) if state.ending else [dispatch(pipeline, state, timer.stage, now)]
    if task is None or task.attempt != timer.attempt:
        return []
    return _time_out(pipeline, state, timer, task, now)


def _time_out(pipeline: Pipeline, state: WorkflowState, timer: FireTimer, task: OpenTask, now: int) -> list[Event]:
    """The time of an open task is over: to be started, or to end."""
    limits = work_of(pipeline, state, timer.stage)
    if timer.kind == "start" and task.started_at is None and task.start_due_at is not None:
        if task.start_due_at > now:
            return []
        seconds = limits.start_timeout_seconds
        error = Failure(reason="start-timeout", message=f"not started within {seconds} s", retryable=True)
        return _fail(pipeline, state, timer.stage, error, worker="", now=now, told=True)
    if timer.kind == "attempt" and task.due_at is not None and task.due_at <= now:
        error = Failure(
            reason="attempt-timeout", message=f"not finished within {limits.timeout_seconds} s", retryable=True
        )
        return _fail(pipeline, state, timer.stage, error, worker=task.worker, now=now, told=True)
    return []


def _retry(pipeline: Pipeline, state: WorkflowState, from_stage: str | None) -> WorkflowRetried:
    _require(state, "retry")
    reset = {name for name, stage in state.stages.items() if stage.status != "completed"}
    # What needs a stage that was undone was made from what is not there any more.
    again = [] if state.compensation is None else list(state.compensation.compensated)
    if from_stage is not None:
        if from_stage not in state.stages:
            raise InvalidInput(f"there is no stage {from_stage!r}; stages are: {', '.join(state.stages)}")
        again.append(from_stage)
    reset = reset.union(again, *(pipeline.descendants[name] for name in again))
    if not reset:
        detail = "every stage completed, so a retry needs from_stage: the stage to run again from"
        raise CommandRefused("retry", state.status, allowed_commands(state), detail)
    ordered = tuple(name for name in state.stages if name in reset)
    return WorkflowRetried(round=state.round + 1, reset=ordered, from_stage=from_stage)


def _flag(state: WorkflowState, command: FlagStall) -> list[Event]:
    if state.terminal or (state.stall is not None and state.stall.cause == command.cause):
        return []
    return [
        WorkflowStalled(
            cause=command.cause,
            hop=command.hop,
            summary=command.summary,
            suggestion=command.suggestion,
            evidence=command.evidence,
            scope=command.scope,
        )
    ]


def _redispatch(pipeline: Pipeline, state: WorkflowState, task_id: str, reason: str, now: int) -> list[Event]:
    """Send an open task again; in a pause only note that it has to be."""
    found = _open_task(state, task_id)
    if isinstance(found, str):
        return []
    name, _, task = found
    if state.status != "paused":
        return [dispatch_again(pipeline, state, name, task, reason, now)]
    if task.lost:
        return []
    return [TaskLost(task_id=task_id, stage=name, attempt=task.attempt, reason=reason)]
