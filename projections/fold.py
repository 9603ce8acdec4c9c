"""Folding: runs as the projections see them. A row is a function of what is folded here, so rows equal the fold.

A `RunView` is what is kept of a run between batches; a `Run` is one that a batch touches, before and after. Records go
through `core.workflow.history.apply`, the same fold that the store's snapshots come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from tailrace.core.codec import decode_event
from tailrace.core.events import (
    Event,
    Failure,
    StageCompleted,
    StageFailed,
    TaskDispatched,
    TaskFailed,
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

TaskStatus = Literal["dispatched", "running", "completed", "failed", "cancelled"]


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a stage. Times in microseconds since the epoch; `started_at` is that of the latest delivery."""

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


class StallRow(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of the watchdog, known by the version of its event."""

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

    __slots__ = ("before", "created", "open_tasks", "outputs", "stall", "stalls", "state", "tasks", "workflow_id")

    def __init__(self, workflow_id: str, view: RunView | None) -> None:
        self.workflow_id = workflow_id
        self.before = None if view is None else view.state
        self.state = self.before
        self.created: WorkflowCreated | None = None
        self.open_tasks: dict[str, TaskRow] = {} if view is None else dict(view.open_tasks)
        self.stall = None if view is None else view.stall
        self.tasks: dict[str, TaskRow] = {}
        self.stalls: dict[int, StallRow] = {}
        self.outputs: dict[tuple[str, int], Any] = {}

    def view(self) -> RunView | None:
        """What is kept of the run; None when nothing of it could be folded."""
        if self.state is None:
            return None
        return RunView(state=self.state, open_tasks=self.open_tasks, stall=self.stall)

    def advance(self, record: Record) -> None:
        """Fold one record; raises what the fold raises, and is then unchanged."""
        state = apply(self.state, record)
        tasks = list(_task_changes(self.open_tasks, record.event, record.at, state))
        stalls = list(_stall_changes(self.stall, self.state, state, record))
        self.state = state
        for task in tasks:
            self.tasks[task.task_id] = task
            if task.finished_at is None:
                self.open_tasks[task.stage] = task
            else:
                self.open_tasks.pop(task.stage, None)
        for stall in stalls:
            self.stalls[stall.version] = stall
            self.stall = stall if stall.cleared_at is None else None
        event = record.event
        if isinstance(event, StageCompleted):
            self.outputs[event.stage, event.attempt] = event.output
        elif isinstance(event, WorkflowCreated):
            self.created = event


def to_record(entry: RawEntry) -> Record:
    """A log entry decoded; raises `Undecodable`."""
    decoded = decode_event(entry.type, entry.data)
    return Record(
        partition=entry.partition,
        entry_id=entry.entry_id,
        seq=entry.seq,
        workflow_id=entry.workflow_id,
        version=entry.version,
        type=entry.type,
        at=decoded.at,
        event=decoded.event,
        command=decoded.command,
        traceparent=entry.traceparent,
    )


def _task_changes(open_tasks: dict[str, TaskRow], event: Event, at: int, state: WorkflowState) -> Iterable[TaskRow]:
    """The rows of tasks that an event changes."""
    match event:
        case TaskDispatched():
            yield TaskRow(
                task_id=event.task_id, stage=event.stage, attempt=event.attempt, agent=event.agent, dispatched_at=at
            )
        case TaskRedispatched():
            task = open_tasks[event.stage]
            yield replace(task, status="dispatched", worker="", started_at=None, dispatched_at=at)
        case TaskStarted():
            task = open_tasks[event.stage]
            deliveries = max(task.deliveries, event.delivery)
            yield replace(task, status="running", worker=event.worker, started_at=at, deliveries=deliveries)
        case TaskProgressed():
            yield replace(open_tasks[event.stage], progress=event.fraction)
        case TaskFailed():
            task = open_tasks[event.stage]
            worker = event.worker or task.worker
            yield replace(task, status="failed", worker=worker, finished_at=at, error=event.error)
        case StageCompleted():
            task = open_tasks[event.stage]
            worker = event.worker or task.worker
            yield replace(task, status="completed", worker=worker, finished_at=at, progress=1.0)
        case StageFailed() | WorkflowCompleted() | WorkflowFailed() | WorkflowCancelled() | WorkflowRetried():
            # What the state does not hold open any more was cancelled with its stage or its run.
            for name, task in open_tasks.items():
                if state.stages[name].task is None:
                    yield replace(task, status="cancelled", finished_at=at)
        case _:
            pass


def _stall_changes(
    stall: StallRow | None, before: WorkflowState | None, state: WorkflowState, record: Record
) -> Iterable[StallRow]:
    """The rows of stalls that a record changes: the standing one ends, the new one begins."""
    if before is None or before.stall is state.stall:
        return
    if stall is not None:
        yield replace(stall, cleared_at=record.at)
    event = record.event
    if isinstance(event, WorkflowStalled):
        yield StallRow(
            version=record.version,
            cause=event.cause,
            hop=event.hop,
            summary=event.summary,
            suggestion=event.suggestion,
            evidence=event.evidence,
            since=record.at,
        )
