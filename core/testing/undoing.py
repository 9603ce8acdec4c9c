"""What holds for the undoing of a run, by its events alone: an account of its own, not the decider's.

Before a round ends otherwise than completed, what its stages did is undone, as far as they declare how: one at a time, what
was done last first, each once in a round; not while a handler that was told to stop may still be at work, until the grace is
over; and the round ends with its first reason, and names what could not be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tailrace.core.codec import CommandRecord, decode_command
from tailrace.core.commands import FireTimer
from tailrace.core.events import (
    CancelGraceEnded,
    CompensationFailed,
    CompensationStarted,
    Event,
    StageCompensated,
    StageCompleted,
    TaskDispatched,
    TaskFailed,
    TaskRedispatched,
    TaskStarted,
    TaskStopped,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
)
from tailrace.core.ids import TaskId
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Record


def check_compensation(pipeline: Pipeline, records: Sequence[Record]) -> None:
    """Read a whole history; raises `AssertionError`."""
    account = Account(pipeline)
    for record in records:
        account.read(record)


class Account:
    """What was done and is to be undone. `stopping` are tasks whose handlers may be at work, and were told to stop."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._command: CommandRecord | None = None
        self._paused_at: int | None = None
        self.done: list[str] = []
        self.open: dict[str, str] = {}
        self.stopping: set[str] = set()
        self.given_up: set[str] = set()
        self.grace_until: int | None = None
        self.started: CompensationStarted | None = None
        self.current = ""
        self.over: list[str] = []
        self.failed: list[str] = []

    def read(self, record: Record) -> None:
        """Go on with the next record; raises `AssertionError` when it must not follow."""
        self._command = record.command or self._command
        enter = _ENTRIES.get(type(record.event))
        if enter is not None:
            enter(self, record.event, record.at)

    def _dispatched(self, event: TaskDispatched, at: int) -> None:
        self.open[event.stage] = event.task_id
        if not event.compensation:
            assert self.started is None, f"{event.task_id} begins in a run that is ending"
            return
        assert self.started is not None, f"{event.task_id} undoes in a run that goes on"
        assert not self.stopping, f"{event.task_id} begins while {self.stopping} may be at work"
        if event.stage != self.current:
            assert not self.current, f"{event.stage} is undone beside {self.current}"
            left = [stage for stage in self.done if stage not in self.over]
            assert left, f"{event.stage} is undone a second time"
            assert left[-1] == event.stage, f"{event.stage} is undone before {left[-1]}"
            self.current = event.stage
        work = self._pipeline.compensations[event.stage]
        assert (event.agent, event.action) == (work.agent, work.action), f"{event.task_id} goes to {event.agent}"

    def _at_work(self, event: TaskRedispatched | TaskStarted, at: int) -> None:
        assert self.open.get(event.stage) == event.task_id, f"{event.task_id} is not open"

    def _task_failed(self, event: TaskFailed, at: int) -> None:
        task_id = self.open.pop(event.stage)
        timed_out = self._command is not None and self._command.type == "FireTimer"
        wanted = timed_out and bool(self._pipeline.compensations)
        assert event.told == wanted, f"{task_id} failed, and whether its handler goes on is not said"
        if event.told:
            self.stopping.add(task_id)
            self.grace_until = event.grace_until

    def _completed(self, event: StageCompleted, at: int) -> None:
        self.open.pop(event.stage)
        self._did(event.stage)

    def _stopped(self, event: TaskStopped, at: int) -> None:
        assert event.task_id in self.stopping | self.given_up, f"{event.task_id} was not told to stop"
        self.stopping.discard(event.task_id)
        self.given_up.discard(event.task_id)
        if event.completed:
            assert event.stage not in self.over, f"{event.stage} is undone a second time"
            self._did(event.stage)

    def _begun(self, event: CompensationStarted, at: int) -> None:
        assert self.started is None, "compensation begins twice in a round"
        assert list(event.stages) == self.done[::-1], f"{event.stages} are to be undone, {self.done} were done"
        self.started = event
        self.stopping |= set(self.open.values())
        self.open = {}
        self.grace_until = event.grace_until
        if event.outcome == "cancelled":
            self._paused_at = None
        assert (event.grace_until is not None) == bool(self.stopping), "nobody is waited for, or without an end"

    def _grace_ended(self, event: CancelGraceEnded, at: int) -> None:
        assert self._command is not None
        timer = decode_command(self._command)
        assert isinstance(timer, FireTimer), f"a grace ends by {self._command.type}"
        assert self.grace_until is not None, "a grace ends that never began"
        assert timer.due_at >= self.grace_until, "a grace ends before its time"
        assert set(event.tasks) == self.stopping, f"{event.tasks} are given up, {self.stopping} have not stopped"
        self.given_up |= self.stopping
        self.stopping, self.grace_until = set(), None

    def _undone(self, event: StageCompensated | CompensationFailed, at: int) -> None:
        assert event.stage == self.current, f"{event.stage} is undone while {self.current or 'nothing'} is"
        self.open.pop(event.stage, None)
        self.current = ""
        self.over.append(event.stage)
        if isinstance(event, CompensationFailed):
            self.failed.append(event.stage)

    def _ended(self, event: WorkflowFailed | WorkflowCancelled, at: int) -> None:
        what = type(event).__name__
        if self.started is None:
            assert not self.done, f"{what}, and {self.done} were not undone"
            working = {TaskId.parse(task_id).stage for task_id in (*self.open.values(), *self.stopping)}
            assert working.isdisjoint(self._pipeline.compensations), f"{what}, and {working} may do their work yet"
        else:
            assert not self.stopping, f"{what} while {self.stopping} may be at work"
            assert not self.current, f"{what} while {self.current} is undone"
            assert set(self.over) == set(self.done), f"{self.done} were to be undone, {self.over} were"
            begun = self.started
            first: Event = WorkflowCancelled(reason=begun.reason, not_compensated=tuple(self.failed))
            if begun.outcome == "failed":
                assert begun.error is not None
                first = WorkflowFailed(error=begun.error, stage=begun.stage, not_compensated=tuple(self.failed))
            assert event == first, f"the run ends as {event}, and began to end as {first}"
        assert len(self.over) == len(set(self.over)), "a stage is undone twice in a round"
        self.open, self.stopping, self.given_up = {}, set(), set()

    def _whole(self, event: WorkflowCompleted, at: int) -> None:
        assert self.started is None, "a run completes while it is undone"
        self.stopping, self.given_up = set(), set()

    def _retried(self, event: WorkflowRetried, at: int) -> None:
        undone = {stage for stage in self.over if stage not in self.failed}
        undone = undone.union(*(self._pipeline.descendants[stage] for stage in undone))
        assert undone <= set(event.reset), f"{undone} were undone or need what was, and {event.reset} run again"
        self.done = [stage for stage in self.done if stage not in event.reset]
        self.started, self.grace_until, self._paused_at = None, None, None
        self.over, self.failed = [], []

    def _paused(self, event: WorkflowPaused, at: int) -> None:
        self._paused_at = at

    def _resumed(self, event: WorkflowResumed, at: int) -> None:
        if self.grace_until is not None and self._paused_at is not None:
            self.grace_until += at - self._paused_at
        self._paused_at = None

    def _did(self, stage: str) -> None:
        if stage in self._pipeline.compensations:
            self.done = [*(name for name in self.done if name != stage), stage]


_ENTRIES: Final[dict[type[Event], Callable[[Account, Any, int], None]]] = {
    TaskDispatched: Account._dispatched,
    TaskRedispatched: Account._at_work,
    TaskStarted: Account._at_work,
    TaskFailed: Account._task_failed,
    TaskStopped: Account._stopped,
    StageCompleted: Account._completed,
    CompensationStarted: Account._begun,
    CancelGraceEnded: Account._grace_ended,
    StageCompensated: Account._undone,
    CompensationFailed: Account._undone,
    WorkflowFailed: Account._ended,
    WorkflowCancelled: Account._ended,
    WorkflowCompleted: Account._whole,
    WorkflowRetried: Account._retried,
    WorkflowPaused: Account._paused,
    WorkflowResumed: Account._resumed,
}
