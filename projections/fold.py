"""Folding: runs as the projections see them. A row is a function of what is folded here, so rows equal the fold.

A `RunView` is what is kept of a run between batches; a `Run` is one that a batch touches, before and after. Records go
through `core.workflow.history.apply`, the same fold that the store's snapshots come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from tailrace.core.codec import open_event
from tailrace.core.events import (
    CompensationStarted,
    Event,
    Failure,
    StageCompensated,
    StageCompleted,
    StageFailed,
    TaskDispatched,
    TaskFailed,
    TaskLost,
    TaskProgressed,
    TaskRedispatched,
    TaskStarted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowCreated,
    WorkflowFailed,
    WorkflowRetried,
    WorkflowStalled,
)
from tailrace.core.store.port import RawEntry
from tailrace.core.workflow.history import Record, apply
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.values import Row

TaskStatus = Literal["dispatched", "running", "completed", "failed", "cancelled"]


class TaskRow(Row, frozen=True, kw_only=True):
    """One attempt of a stage, or at undoing it. `started_at` is that of the latest delivery."""

    workflow_id: str
    task_id: str
    stage: str
    attempt: int
    agent: str
    dispatched_at: int
    status: TaskStatus = "dispatched"
    worker: str = ""
    deliveries: int = 0
    progress: float = 0.0
    started_at: int | None = None
    finished_at: int | None = None
    error: Failure | None = None
    compensation: bool = False


OpenTasks: TypeAlias = dict[str, TaskRow]
Changes: TypeAlias = tuple[TaskRow, ...]


class StallRow(Row, frozen=True, kw_only=True):
    """One finding of the watchdog, known by the version of its event."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"evidence"})

    workflow_id: str
    version: int
    cause: str
    hop: str
    summary: str
    suggestion: str
    evidence: dict[str, Any]
    since: int
    cleared_at: int | None = None


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run between batches: its state, its open tasks by stage, and the stall that stands."""

    state: WorkflowState
    open_tasks: dict[str, TaskRow]
    stall: StallRow | None


class Run:
    """A run that a batch touches: `before` and `state` (after), and what changed in between."""

    __slots__ = (
        "_open_before",
        "before",
        "created",
        "open_tasks",
        "outputs",
        "stall",
        "stalls",
        "state",
        "tasks",
        "workflow_id",
    )

    def __init__(self, workflow_id: str, view: RunView | None) -> None:
        self.workflow_id = workflow_id
        self.before = None if view is None else view.state
        self.state = self.before
        self.created: WorkflowCreated | None = None
        self._open_before: OpenTasks = {} if view is None else view.open_tasks
        self.open_tasks: OpenTasks = dict(self._open_before)
        self.stall = None if view is None else view.stall
        self.tasks: dict[str, TaskRow] = {}
        self.stalls: dict[int, StallRow] = {}
        self.outputs: dict[tuple[str, int], Any] = {}

    def is_new(self, task: TaskRow) -> bool:
        """Whether a task was dispatched since `before`, so that it has no row yet."""
        before = self._open_before.get(task.stage)
        return before is None or before.task_id != task.task_id

    def view(self) -> RunView | None:
        """What is kept of the run; None when nothing of it could be folded."""
        if self.state is None:
            return None
        return RunView(state=self.state, open_tasks=self.open_tasks, stall=self.stall)

    def advance(self, record: Record) -> None:
        """Fold one record; raises what the fold raises, and is then unchanged."""
        event, before = record.event, self.state
        state = apply(before, record)
        change = _TASKS.get(type(event))
        tasks = change(self.open_tasks, event, record.at, state) if change else ()
        if before is not None and before.stall is not state.stall:
            self._note_stalls(record)
        self.state = state
        for task in tasks:
            self.tasks[task.task_id] = task
            if task.finished_at is None:
                self.open_tasks[task.stage] = task
            else:
                self.open_tasks.pop(task.stage, None)
        if isinstance(event, StageCompleted):
            self.outputs[event.stage, event.attempt] = event.output
        elif isinstance(event, WorkflowCreated):
            self.created = event

    def _note_stalls(self, record: Record) -> None:
        for stall in _stall_changes(self.stall, record):
            self.stalls[stall.version] = stall
            self.stall = stall if stall.cleared_at is None else None


def to_record(entry: RawEntry) -> Record:
    """A log entry decoded; raises `Undecodable`."""
    data, event = open_event(entry.type, entry.data)
    return Record(
        partition=entry.partition,
        entry_id=entry.entry_id,
        seq=entry.seq,
        workflow_id=entry.workflow_id,
        version=entry.version,
        type=entry.type,
        at=data.at,
        event=event,
        command=data.command,
        traceparent=entry.traceparent,
    )


def _dispatched(open_tasks: OpenTasks, event: TaskDispatched, at: int, state: WorkflowState) -> Changes:
    return (
        TaskRow(
            workflow_id=state.workflow_id,
            task_id=event.task_id,
            stage=event.stage,
            attempt=event.attempt,
            agent=event.agent,
            dispatched_at=at,
            compensation=event.compensation,
        ),
    )


def _redispatched(open_tasks: OpenTasks, event: TaskRedispatched, at: int, state: WorkflowState) -> Changes:
    task = open_tasks[event.stage]
    return (replace(task, status="dispatched", worker="", started_at=None, dispatched_at=at),)


def _lost(open_tasks: OpenTasks, event: TaskLost, at: int, state: WorkflowState) -> Changes:
    return (replace(open_tasks[event.stage], status="dispatched", worker="", started_at=None),)


def _started(open_tasks: OpenTasks, event: TaskStarted, at: int, state: WorkflowState) -> Changes:
    task = open_tasks[event.stage]
    deliveries = max(task.deliveries, event.delivery)
    return (replace(task, status="running", worker=event.worker, started_at=at, deliveries=deliveries),)


def _progressed(open_tasks: OpenTasks, event: TaskProgressed, at: int, state: WorkflowState) -> Changes:
    return (replace(open_tasks[event.stage], progress=event.fraction),)


def _failed(open_tasks: OpenTasks, event: TaskFailed, at: int, state: WorkflowState) -> Changes:
    task = open_tasks[event.stage]
    return (replace(task, status="failed", worker=event.worker or task.worker, finished_at=at, error=event.error),)


def _completed(
    open_tasks: OpenTasks, event: StageCompleted | StageCompensated, at: int, state: WorkflowState
) -> Changes:
    task = open_tasks[event.stage]
    return (replace(task, status="completed", worker=event.worker or task.worker, finished_at=at, progress=1.0),)


def _closed(open_tasks: OpenTasks, event: Event, at: int, state: WorkflowState) -> Changes:
    """What the state does not hold open any more was cancelled with its stage or its run."""
    return tuple(
        replace(task, status="cancelled", finished_at=at)
        for name, task in open_tasks.items()
        if state.stages[name].task is None
    )


#: How an event changes the rows of tasks: (open tasks by stage, event, at, state after it) -> rows.
_TASKS: Final[dict[type[Event], Callable[[OpenTasks, Any, int, WorkflowState], Changes]]] = {
    TaskDispatched: _dispatched,
    TaskRedispatched: _redispatched,
    TaskLost: _lost,
    TaskStarted: _started,
    TaskProgressed: _progressed,
    TaskFailed: _failed,
    StageCompleted: _completed,
    StageFailed: _closed,
    CompensationStarted: _closed,
    StageCompensated: _completed,
    WorkflowCompleted: _closed,
    WorkflowFailed: _closed,
    WorkflowCancelled: _closed,
    WorkflowRetried: _closed,
}


def _stall_changes(stall: StallRow | None, record: Record) -> Iterable[StallRow]:
    """The rows of stalls that a record changes: the standing one ends, the new one begins."""
    if stall is not None:
        yield replace(stall, cleared_at=record.at)
    event = record.event
    if isinstance(event, WorkflowStalled):
        yield StallRow(
            workflow_id=record.workflow_id,
            version=record.version,
            cause=event.cause,
            hop=event.hop,
            summary=event.summary,
            suggestion=event.suggestion,
            evidence=event.evidence,
            since=record.at,
        )
