"""Random pipelines, and random things that happen to a run of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tailrace.core.codec import decode_event, encode_event
from tailrace.core.commands import (
    CancelWorkflow,
    Command,
    FireTimer,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    Report,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.errors import CommandRefused
from tailrace.core.events import Event, Failure
from tailrace.core.testing import builders
from tailrace.core.testing.history import History
from tailrace.core.workflow.definition import Definition, Pipeline, RetryPolicy, StageDefinition, validate
from tailrace.core.workflow.history import Record
from tailrace.core.workflow.policy import Timer, timers

bounded = settings(
    max_examples=70,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

#: What can happen; the more often a word stands here, the more often it does.
HAPPENINGS: Final = (
    *("complete", "fire") * 6,
    *("start", "fail", "pause") * 2,
    *("progress",),
    *("resume", "cancel", "retry", "retry-from", "flag", "redispatch"),
    *("fail-for-good", "give-up", "poison", "lost", "old-report", "old-timer", "nonsense", "start-again"),
)


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One thing that happens, to the `which`-th of what it can happen to, after `seconds`."""

    what: str
    which: int
    seconds: float


happenings = st.builds(
    Happening,
    what=st.sampled_from(HAPPENINGS),
    which=st.integers(0, 7),
    seconds=st.sampled_from((0.0, 0.0, 0.001, 1.0, 30.0, 1000.0, -5.0)),
)


@st.composite
def stages(draw: st.DrawFn, index: int) -> StageDefinition:
    """A stage that may need any of those before it."""
    return StageDefinition(
        name=f"s{index}",
        agent=draw(st.sampled_from(("alpha", "beta"))),
        needs=tuple(draw(st.sets(st.sampled_from([f"s{n}" for n in range(index)]), max_size=3))) if index else (),
        weight=draw(st.integers(0 if index else 1, 3)),
        timeout_seconds=draw(st.sampled_from((None, 20.0, 600.0))),
        start_timeout_seconds=draw(st.sampled_from((None, 10.0))),
        retry=RetryPolicy(
            max_attempts=draw(st.integers(1, 3)),
            backoff_seconds=draw(st.sampled_from((0.0, 1.0))),
            factor=2.0,
        ),
    )


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """A valid definition of one to five stages."""
    definition = Definition(name="random", stages=tuple(draw(stages(n)) for n in range(draw(st.integers(1, 5)))))
    validate(definition)
    return Pipeline(definition)


class RandomRun:
    """A run that things happen to; what can't happen now is passed over."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.history = History(pipeline)
        self.history.create()
        self._old_reports = ["run-1:s0:9"]
        self._old_timers = [FireTimer(kind="retry", stage="s9", attempt=1, due_at=1)]

    def let(self, happening: Happening) -> list[Event]:
        """Let it happen, and give its events."""
        self.history.advance(happening.seconds)
        command = self._person(happening) or self._machine(happening)
        if command is None:
            return self._report(happening)
        try:
            return self.history.do(command)
        except CommandRefused:
            return []

    def _person(self, happening: Happening) -> Command | None:
        # People do not leave a run alone for long that ended or is paused.
        if self.history.state.terminal and happening.which % 2:
            return RetryWorkflow(from_stage=None if happening.which % 4 == 1 else next(iter(self.history.stages)))
        if self.history.state.status == "paused" and happening.which % 2:
            return ResumeWorkflow()
        names = list(self.history.stages)
        match happening.what:
            case "pause":
                return PauseWorkflow()
            case "resume":
                return ResumeWorkflow()
            case "cancel" if happening.which == 0:
                return CancelWorkflow()
            case "retry":
                return RetryWorkflow()
            case "retry-from":
                return RetryWorkflow(from_stage=names[happening.which % len(names)])
            case _:
                return None

    def _machine(self, happening: Happening) -> Command | None:
        match happening.what:
            case "flag":
                return FlagStall(cause=("no-worker", "overdue")[happening.which % 2], hop="tasks", summary="test")
            case "old-timer":
                return self._old_timers[happening.which % len(self._old_timers)]
            case "fire":
                return self._due_timer(happening.which)
            case "redispatch":
                return RedispatchTask(task_id=self._task_id(happening.which), reason="test")
            case _:
                return None

    def _due_timer(self, which: int) -> Command | None:
        """A running timer: the clock goes on to its time."""
        running = [(Timer.parse(name), due_at) for name, due_at in timers(self.history.state).items()]
        if not running:
            return None
        timer, due_at = running[which % len(running)]
        self.history.now = max(self.history.now, due_at)
        command = FireTimer(kind=timer.kind, stage=timer.stage, attempt=timer.attempt, due_at=due_at)
        self._old_timers.append(command)
        return command

    def _task_id(self, which: int) -> str:
        open_stages = self.history.open_stages
        if not open_stages:
            return self._old_reports[which % len(self._old_reports)]
        return self.history.task_id(open_stages[which % len(open_stages)])

    def _report(self, happening: Happening) -> list[Event]:
        task_id = self._task_id(happening.which)
        if happening.what == "old-report":
            task_id = self._old_reports[happening.which % len(self._old_reports)]
        self._old_reports.append(task_id)
        match happening.what:
            case "start":
                report = builders.started(task_id)
            case "start-again":
                report = builders.started(task_id, worker=f"w{happening.which}", delivery=happening.which + 1)
            case "progress":
                report = builders.progressed(task_id, happening.which / 5)
            case "complete" | "old-report":
                report = builders.completed(task_id, {"which": happening.which})
            case "fail":
                report = builders.failed(task_id)
            case "fail-for-good" if happening.which < 3:
                report = builders.failed(task_id, retryable=False)
            case "give-up":
                report = builders.cancelled(task_id)
            case "poison" if happening.which < 3:
                report = builders.poison(task_id)
            case "lost":
                report = builders.lost(task_id)
            case "nonsense":
                report = Report(kind="invented", task_id=task_id, error=Failure(reason="x"))
            case _:
                return []
        return self.history.report(report)


def reread(record: Record) -> Record:
    """A record as a reader gets it: encoded and decoded."""
    data = encode_event(record.event, at=record.at, command=record.command)
    decoded = decode_event(record.type, data)
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return Record(**{**fields, "at": decoded.at, "event": decoded.event, "command": decoded.command})
