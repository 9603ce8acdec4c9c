"""What holds for every run, whatever happens to it, in whatever order."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.core.codec import decode, decode_command, decode_event, encode, encode_event
from tailrace.core.engine.plan import plan
from tailrace.core.events import Event
from tailrace.core.store.checks import check_append
from tailrace.core.testing.history import History, names
from tailrace.core.testing.invariants import (
    check_clocks,
    check_needs,
    check_next_step,
    check_order,
    check_outcomes,
    check_reproduced,
    check_rounds,
    check_tasks,
)
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import DecidedEvent, Record, fold
from tailrace.core.workflow.policy import expectation, timers
from tailrace.core.workflow.state import WorkflowState
from tests.property.runs import Happening, RandomRun, happenings, pipelines

bounded = settings(
    max_examples=70,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
courses = st.integers(0, 60).flatmap(lambda length: st.lists(happenings, min_size=length, max_size=length))


def played(pipeline: Pipeline, course: list[Happening]) -> History:
    """A run after all of it."""
    run = RandomRun(pipeline)
    for happening in course:
        run.let(happening)
    return run.history


@bounded
@given(pipelines(), courses)
def test_an_open_run_always_has_a_next_step(pipeline: Pipeline, course: list[Happening]) -> None:
    """A task that is open, an attempt that is planned, or a person who paused it; and a time when to ask."""
    run = RandomRun(pipeline)
    for happening in [None, *course]:
        if happening is not None:
            run.let(happening)
        check_next_step(pipeline, run.history.state, expectation(pipeline, run.history.state))


@bounded
@given(pipelines(), courses)
def test_tasks_are_open_one_at_a_time_and_attempts_count_up(pipeline: Pipeline, course: list[Happening]) -> None:
    """A task id is dispatched once, never while another task of its stage is open, and closed at most once."""
    run = played(pipeline, course)
    assert {run.task_id(name) for name in run.open_stages} == check_tasks(run.records)


@bounded
@given(pipelines(), courses)
def test_needs_are_met_before_a_stage_is_dispatched(pipeline: Pipeline, course: list[Happening]) -> None:
    """And nothing is dispatched in a pause or after the end."""
    check_needs(pipeline, played(pipeline, course).records)


@bounded
@given(pipelines(), courses)
def test_the_end_is_the_end_and_progress_never_falls(pipeline: Pipeline, course: list[Happening]) -> None:
    """Within a round; only a retry opens the next one."""
    check_rounds(played(pipeline, course).records)


@bounded
@given(pipelines(), courses)
def test_attempts_have_their_whole_time(pipeline: Pipeline, course: list[Happening]) -> None:
    """And the time of a pause is not theirs."""
    check_clocks(pipeline, played(pipeline, course).records)


@bounded
@given(pipelines(), courses)
def test_every_stage_of_an_ended_run_has_one_outcome(pipeline: Pipeline, course: list[Happening]) -> None:
    """One of four; and within a round at most one event says so."""
    run = played(pipeline, course)
    check_outcomes(run.records, run.state)


@bounded
@given(pipelines(), courses)
def test_the_history_alone_gives_the_state(pipeline: Pipeline, course: list[Happening]) -> None:
    """Byte for byte, through the codec, with dense versions and times that never fall."""
    run = played(pipeline, course)
    read = [reread(record) for record in run.records]
    assert len(read) == run.state.version
    check_order(read)
    snapshot = fold(read)
    assert snapshot is not None
    assert encode(snapshot.state) == encode(run.state)
    assert decode(encode(run.state), WorkflowState) == run.state
    assert {name for name, stage in run.stages.items() if stage.output_attempt is not None} == set(
        snapshot.stage_outputs()
    )


@bounded
@given(pipelines(), courses)
def test_the_commands_in_the_history_reproduce_it(pipeline: Pipeline, course: list[Happening]) -> None:
    """Each decision again, on the state before it and at its time: the same events, byte for byte."""
    run = played(pipeline, course)
    records = [reread(record) for record in run.records]
    check_reproduced(pipeline, records, run.log(), run.state.traceparent)


@bounded
@given(pipelines(), st.lists(st.lists(happenings, max_size=4), max_size=15))
def test_decisions_can_always_be_appended(pipeline: Pipeline, batches: list[list[Happening]]) -> None:
    """Alone or several in one: timers and open tasks after the append are those of the state."""
    run = RandomRun(pipeline)
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
        open_tasks -= {closing.task_id for closing in append.closings}
        dispatched = [dispatch.message.task_id for dispatch in append.dispatches]
        open_tasks |= set(dispatched)
        assert open_tasks == {history.task_id(name) for name in history.open_stages}


@bounded
@given(pipelines(), courses, happenings)
def test_the_same_thing_twice_takes_effect_once(pipeline: Pipeline, course: list[Happening], last: Happening) -> None:
    """A report or a timer that is delivered again closes nothing and dispatches nothing."""
    run = RandomRun(pipeline)
    for happening in course:
        run.let(happening)
    before = run.history.state
    run.let(last)
    (record, *_) = [found.command for found in reversed(run.history.records) if found.command is not None]
    if run.history.state is before or record.type not in {"ApplyReport", "FireTimer"}:
        return
    command = decode_command(record)
    if names(run.history.events[before.version :])[-1] in {"TaskRedispatched", "TaskLost"}:
        return
    again: list[Event] = run.history.do(command)
    assert set(names(again)) <= {"ReportIgnored", "TaskProgressed"}


def reread(record: Record) -> Record:
    """A record as a reader gets it: encoded and decoded."""
    data = encode_event(record.event, at=record.at, command=record.command)
    decoded = decode_event(record.type, data)
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return Record(**{**fields, "at": decoded.at, "event": decoded.event, "command": decoded.command})
