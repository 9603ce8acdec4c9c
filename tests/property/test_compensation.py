"""What is undone, in which order and when, whatever happens to a run."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tailrace.core.codec import decode, encode
from tailrace.core.engine.plan import plan
from tailrace.core.events import CompensationStarted, Event
from tailrace.core.ids import TaskId
from tailrace.core.store.checks import check_append
from tailrace.core.testing import builders
from tailrace.core.testing.invariants import check_history, check_next_step
from tailrace.core.testing.undoing import check_compensation
from tailrace.core.workflow.definition import CompensationDefinition, Definition, Pipeline, RetryPolicy, validate
from tailrace.core.workflow.history import DecidedEvent
from tailrace.core.workflow.policy import expectation, timers
from tailrace.core.workflow.state import WorkflowState, encode_state
from tests.property.runs import HAPPENINGS, Happening, RandomRun, bounded, pipelines, reread

#: Handlers that were told to stop do so in four ways; and more runs end before they have completed.
WORDS: Final = (
    *HAPPENINGS,
    *("stop", "stop-completed") * 4,
    *("stop-failed", "stopped") * 2,
    *("cancel", "fail-for-good") * 3,
)

happenings = st.builds(
    Happening,
    what=st.sampled_from(WORDS),
    which=st.integers(0, 7),
    seconds=st.sampled_from((0.0, 0.0, 0.001, 1.0, 3.0, 30.0, -5.0)),
)
courses = st.integers(0, 60).flatmap(lambda length: st.lists(happenings, min_size=length, max_size=length))


@st.composite
def undone_pipelines(draw: st.DrawFn) -> Pipeline:
    """A definition some of whose stages, at least one, are undone when the run does not complete."""
    definition = draw(pipelines()).definition
    undone = draw(st.sets(st.sampled_from([stage.name for stage in definition.stages]), min_size=1))
    stages = tuple(
        replace(stage, compensate=draw(compensations)) if stage.name in undone else stage for stage in definition.stages
    )
    grace = draw(st.sampled_from((0.5, 2.0, 10.0)))
    changed = Definition(name="undone", stages=stages, cancel_grace_seconds=grace)
    validate(changed)
    return Pipeline(changed)


compensations = st.builds(
    CompensationDefinition,
    agent=st.sampled_from(("alpha", "gamma")),
    action=st.sampled_from(("", "undo")),
    timeout_seconds=st.sampled_from((None, 5.0)),
    retry=st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 3),
        backoff_seconds=st.sampled_from((0.0, 1.0, 20.0)),
        factor=st.just(2.0),
    ),
)


class UndoneRun(RandomRun):
    """A run whose handlers, told to stop, do so in several ways: told, at the end of their work, or with their worker."""

    def let(self, happening: Happening) -> list[Event]:
        """Let it happen, and give its events."""
        if not happening.what.startswith("stop"):
            return super().let(happening)
        self.history.advance(happening.seconds)
        compensation = self.history.state.compensation
        told = () if compensation is None else compensation.told
        if not told:
            return super().let(replace_what(happening, "complete"))
        task = told[happening.which % len(told)]
        task_id = str(TaskId(workflow_id=self.history.workflow_id, stage=task.stage, attempt=task.attempt))
        match happening.what:
            case "stop":
                report = builders.cancelled(task_id)
            case "stop-completed":
                report = builders.completed(task_id, {"late": happening.which})
            case "stop-failed":
                report = builders.failed(task_id)
            case _:
                report = builders.stopped(task_id)
        return self.history.report(report)


def replace_what(happening: Happening, what: str) -> Happening:
    """Something else that happens to the same, then."""
    return Happening(what=what, which=happening.which, seconds=happening.seconds)


@bounded
@given(undone_pipelines(), courses)
def test_what_was_done_is_undone_in_reverse_before_the_end(pipeline: Pipeline, course: list[Happening]) -> None:
    """One at a time, once in a round, when no handler is at work or its grace is over; and the end has the first reason."""
    run = UndoneRun(pipeline)
    for happening in course:
        run.let(happening)
    check_compensation(pipeline, run.history.records)


@bounded
@given(undone_pipelines(), courses)
def test_a_run_that_undoes_keeps_every_other_promise(pipeline: Pipeline, course: list[Happening]) -> None:
    """It has a next step at all times; what holds for runs holds, and its bytes lead to its state and back."""
    run = UndoneRun(pipeline)
    for happening in [None, *course]:
        if happening is not None:
            run.let(happening)
        check_next_step(pipeline, run.history.state, expectation(pipeline, run.history.state))
    history = run.history
    check_history(pipeline, [reread(record) for record in history.records], history.log(), history.state)
    folded = history.folded()
    assert encode(folded.state) == encode(history.state)
    assert decode(encode_state(history.state), WorkflowState) == history.state
    compensation = history.state.compensation
    if compensation is not None:
        assert {f"{stage}:{attempt}" for stage, attempt in compensation.done} <= folded.outputs.keys()


@bounded
@given(undone_pipelines(), st.lists(st.lists(happenings, max_size=4), max_size=20))
def test_its_decisions_can_always_be_appended(pipeline: Pipeline, batches: list[list[Happening]]) -> None:
    """Alone or several in one: timers and tasks are those of the state, and tasks that are waited for are closed so."""
    run = UndoneRun(pipeline)
    history = run.history
    running = timers(history.state)
    open_tasks = {history.task_id(name) for name in history.open_stages}
    for batch in batches:
        before, position = history.state, len(history.records)
        for happening in batch:
            run.let(happening)
        decided = [
            DecidedEvent(event=record.event, at=record.at, command=record.command)
            for record in history.records[position:]
        ]
        append = plan(pipeline, before, history.state, decided, traceparents=[""] * len(decided))
        check_append(append)
        running = {name: due for name, due in running.items() if name not in append.timers_cleared}
        running |= append.timers_set
        assert running == timers(history.state)
        agents = {dispatch.message.task_id: dispatch.message.agent for dispatch in append.dispatches}
        open_tasks = (open_tasks - {closing.task_id for closing in append.closings}) | agents.keys()
        assert open_tasks == {history.task_id(name) for name in history.open_stages}
        compensation = history.state.compensation
        told = () if compensation is None else compensation.told
        awaited = {history.task_id(task.stage, task.attempt) for task in told}
        assert {closing.task_id for closing in append.closings if closing.awaited} <= awaited


@bounded
@given(undone_pipelines(), courses)
def test_a_run_that_is_ending_ends(pipeline: Pipeline, course: list[Happening]) -> None:
    """Though no handler stops and no compensation succeeds: when all timers have fired and all tasks have failed."""
    run = UndoneRun(pipeline)
    for happening in course:
        run.let(happening)
    history = run.history
    if history.state.ending is None:
        return
    if history.state.status == "paused":
        run.let(Happening(what="resume", which=1, seconds=0.0))
    for _ in range(200):
        if history.state.terminal:
            break
        if history.open_stages:
            history.report(builders.failed(history.task_id(history.open_stages[0])))
        else:
            (timer,) = timers(history.state)
            run.let(Happening(what="fire", which=0, seconds=0.0))
            assert timer not in timers(history.state)
    started = [event for event in history.events if isinstance(event, CompensationStarted)][-1]
    assert history.state.status == started.outcome
    check_compensation(pipeline, history.records)
