"""One run without any store: commands are decided and folded in memory, and kept as a log would hold them.

run = History(diamond())
run.create()
run.complete("start", output=1)
assert set(run.open_stages) == {"left", "right"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailrace.core.clock import to_us
from tailrace.core.codec import encode_event
from tailrace.core.commands import ApplyReport, Command, FireTimer, Report
from tailrace.core.events import Event, WorkflowCreated
from tailrace.core.ids import TaskId
from tailrace.core.testing import builders
from tailrace.core.testing.builders import TRACEPARENT
from tailrace.core.testing.clock import START_US
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Record, Snapshot, fold, step
from tailrace.core.workflow.policy import Timer, timers
from tailrace.core.workflow.state import OpenTask, StageState, WorkflowState


class History:
    """A run of `pipeline`; `now` is in microseconds and moves only by `advance`."""

    def __init__(self, pipeline: Pipeline, workflow_id: str = "run-1", *, now: int = START_US) -> None:
        self.pipeline = pipeline
        self.workflow_id = workflow_id
        self.now = now
        self.records: list[Record] = []
        self._state: WorkflowState | None = None
        self._commands = 0

    @property
    def state(self) -> WorkflowState:
        """The state after all that happened so far."""
        assert self._state is not None, "the run was not created"
        return self._state

    @property
    def stages(self) -> dict[str, StageState]:
        """The stages as they are now."""
        return self.state.stages

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return [record.event for record in self.records]

    @property
    def open_stages(self) -> list[str]:
        """Stages with an open task."""
        return [name for name, stage in self.stages.items() if stage.task is not None]

    @property
    def timers(self) -> dict[tuple[str, str], int]:
        """Timers that run: (kind, stage) to the due time."""
        parsed = {Timer.parse(name): due_at for name, due_at in timers(self.state).items()}
        return {(timer.kind, timer.stage): due_at for timer, due_at in parsed.items()}

    def advance(self, seconds: float) -> None:
        """Turn the clock."""
        self.now += to_us(seconds)

    def do(self, command: Command, *, actor: str = "test") -> list[Event]:
        """Decide a command now, keep what it led to, and give its events; raises what `decide` raises."""
        self._commands += 1
        after, decided = step(
            self.pipeline,
            self._state,
            command,
            now=self.now,
            command_id=f"command-{self._commands}",
            actor=actor,
            traceparent=TRACEPARENT,
        )
        for item in decided:
            version = len(self.records) + 1
            record = Record(
                partition=0,
                entry_id=f"{item.at // 1000}-{version}",
                seq=version,
                workflow_id=self.workflow_id,
                version=version,
                type=type(item.event).__name__,
                at=item.at,
                event=item.event,
                command=item.command,
                traceparent=TRACEPARENT,
            )
            self.records.append(record)
        self._state = after
        return [item.event for item in decided]

    def create(self, **fields: Any) -> list[Event]:
        """Start the run."""
        return self.do(builders.create_workflow(self.pipeline, self.workflow_id, **fields))

    def report(self, report: Report) -> list[Event]:
        """Apply what a worker says."""
        return self.do(ApplyReport(report=report), actor="report")

    def task_id(self, stage: str, attempt: int | None = None) -> str:
        """The id of a stage's task: of its latest attempt, unless another one is named."""
        attempt = self.stages[stage].attempt if attempt is None else attempt
        return str(TaskId(workflow_id=self.workflow_id, stage=stage, attempt=attempt))

    def task(self, stage: str) -> OpenTask:
        """The open task of a stage."""
        task = self.stages[stage].task
        assert task is not None, f"stage {stage!r} has no open task"
        return task

    def start(self, stage: str, **fields: Any) -> list[Event]:
        """A worker began with the stage's task."""
        return self.report(builders.started(self.task_id(stage), **fields))

    def complete(self, stage: str, output: Any = None, **fields: Any) -> list[Event]:
        """A worker has the stage's result."""
        return self.report(builders.completed(self.task_id(stage), output, **fields))

    def fail(self, stage: str, **fields: Any) -> list[Event]:
        """A worker has no result for the stage."""
        return self.report(builders.failed(self.task_id(stage), **fields))

    def fire(self, kind: str, stage: str = "") -> list[Event]:
        """Turn the clock to a running timer's due time, if it is not there yet, and fire it."""
        due_at = self.timers[kind, stage]
        attempt = self.state.round if kind == "grace" else self.stages[stage].attempt
        self.now = max(self.now, due_at)
        return self.do(FireTimer(kind=kind, stage=stage, attempt=attempt, due_at=due_at))

    def folded(self) -> Snapshot:
        """The snapshot that the records alone give."""
        snapshot = fold(self.records)
        assert snapshot is not None
        return snapshot

    def log(self) -> list[bytes]:
        """The bytes of each record, as the log holds them."""
        return [encode_event(record.event, at=record.at, command=record.command) for record in self.records]


def created(history: History) -> WorkflowCreated:
    """The first event of a run."""
    event = history.events[0]
    assert isinstance(event, WorkflowCreated)
    return event


def names(events: Sequence[Event]) -> list[str]:
    """What happened, by name."""
    return [type(event).__name__ for event in events]
