"""What a run undoes before it ends: in which order, when, by whom, and what happens meanwhile."""

from __future__ import annotations

import pytest

from tailrace.core.clock import SECOND
from tailrace.core.commands import CancelWorkflow, FireTimer, PauseWorkflow, ResumeWorkflow, RetryWorkflow
from tailrace.core.engine.plan import plan
from tailrace.core.errors import CommandRefused
from tailrace.core.events import (
    CancelGraceEnded,
    CompensationFailed,
    CompensationStarted,
    StageCompensated,
    TaskDispatched,
    TaskStopped,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowRetried,
)
from tailrace.core.testing import builders
from tailrace.core.testing.builders import line, pipeline, stage, undone
from tailrace.core.testing.history import History, names
from tailrace.core.testing.invariants import check_history
from tailrace.core.workflow.definition import Pipeline, RetryPolicy
from tailrace.core.workflow.history import DecidedEvent
from tailrace.core.workflow.policy import TIMER_SLACK_US, expectation
from tailrace.core.workflow.state import encode_state

LINE = pipeline(
    undone("a", undo="undoer"), stage("b", "a"), undone("c", "b"), stage("d", "c"), cancel_grace_seconds=5.0
)
BRANCHES = pipeline(undone("a"), undone("left", "a"), stage("right", "a"), cancel_grace_seconds=5.0)


def reached(stage_name: str, of: Pipeline = LINE) -> History:
    """A run of a line whose stages before that one have completed."""
    run = History(of)
    run.create()
    for name in run.stages:
        if name == stage_name:
            return run
        run.complete(name, output={"made": name})
    raise AssertionError(stage_name)


def give_up(run: History, stage_name: str) -> list[str]:
    """Fail a stage for good; gives the names of the events."""
    return names(run.fail(stage_name, retryable=False))


def checked(run: History) -> History:
    """A run whose whole history is as it must be."""
    check_history(run.pipeline, run.records, run.log(), run.state)
    return run


def undoings(run: History) -> list[tuple[str, str, str]]:
    """Task, agent and action of each dispatch that undoes, in order."""
    return [
        (event.task_id, event.agent, event.action)
        for event in run.events
        if isinstance(event, TaskDispatched) and event.compensation
    ]


def test_a_failed_run_undoes_in_reverse_and_then_fails() -> None:
    """One at a time; stages that declare nothing are passed over; the run is running until the last one is undone."""
    run = reached("d")
    assert give_up(run, "d") == ["TaskStarted", "TaskFailed", "StageFailed", "CompensationStarted", "TaskDispatched"]
    started = next(event for event in run.events if isinstance(event, CompensationStarted))
    assert (started.outcome, started.stages, started.stage) == ("failed", ("c", "a"), "d")
    assert (run.state.status, run.state.progress_percentage, run.state.current_stage) == ("running", 75, "d")
    assert run.open_stages == ["c"]
    assert [run.state.compensation_of(name) for name in "abcd"] == ["pending", None, "running", None]
    assert names(run.complete("c")) == ["TaskStarted", "StageCompensated", "TaskDispatched"]
    ended = run.complete("a")
    assert names(ended) == ["TaskStarted", "StageCompensated", "WorkflowFailed"]
    assert ended[-1] == WorkflowFailed(error=builders.failed("", retryable=False).error, stage="d")  # type: ignore[arg-type]  # it has one
    assert undoings(run) == [
        ("run-1:c:2", "agent", "compensate-c"),
        ("run-1:a:2", "undoer", "compensate-a"),
    ]
    assert (run.state.status, run.state.progress_percentage) == ("failed", 75)
    assert {name: found.status for name, found in run.stages.items()} == {
        "a": "completed",
        "b": "completed",
        "c": "completed",
        "d": "failed",
    }
    checked(run)


def test_a_run_with_nothing_to_undo_ends_at_once() -> None:
    """Without a word of compensation, in its log or in its stored state."""
    run = reached("a")
    run.start("a")
    assert give_up(run, "a") == ["TaskFailed", "StageFailed", "WorkflowFailed"]
    plain = History(line("a", "b"))
    plain.create()
    plain.complete("a")
    plain.do(CancelWorkflow())
    assert plain.state.compensation is None
    assert encode_state(plain.state)[:3] == b"\xdc\x00\x11"


def test_a_cancelled_run_undoes_when_its_handler_has_stopped() -> None:
    """The word of the worker leads on; the reason of the cancellation stands in the last event."""
    run = reached("d")
    run.start("d")
    assert names(run.do(CancelWorkflow(reason="why not"))) == ["CompensationStarted"]
    assert run.timers == {("grace", ""): run.now + 5 * SECOND}
    assert expectation(LINE, run.state) == run.now + 5 * SECOND + TIMER_SLACK_US
    stopped = run.report(builders.cancelled("run-1:d:1"))
    assert stopped[0] == TaskStopped(task_id="run-1:d:1", stage="d", attempt=1, worker="w1")
    assert names(stopped[1:]) == ["TaskDispatched"]
    run.complete("c")
    assert run.complete("a")[-1] == WorkflowCancelled(reason="why not")
    assert {name: found.status for name, found in run.stages.items()}["d"] == "cancelled"
    checked(run)


@pytest.mark.parametrize("kind", ["cancelled", "failed", "stopped"])
def test_every_end_of_a_handler_counts(kind: str) -> None:
    """It was told, it failed by itself, or the store found its lease at an end: what it did not finish is not undone."""
    run = reached("c")
    run.start("c")
    run.do(CancelWorkflow())
    report = {"cancelled": builders.cancelled, "failed": builders.failed, "stopped": builders.stopped}[kind](
        "run-1:c:1"
    )
    events = run.report(report)
    assert names(events[-2:]) == ["TaskStopped", "TaskDispatched"]
    assert run.open_stages == ["a"]
    assert names(run.report(report)) == (["ReportIgnored"] if kind == "failed" else [])
    run.complete("a")
    assert undoings(run) == [("run-1:a:2", "undoer", "compensate-a")]
    checked(run)


def test_progress_of_a_handler_that_is_told_to_stop_is_no_end() -> None:
    """It is at work, or says that it was."""
    run = reached("d")
    run.do(CancelWorkflow())
    for report in (builders.started("run-1:d:1"), builders.progressed("run-1:d:1", 0.5), builders.lost("run-1:d:1")):
        assert run.report(report) == []
    assert run.open_stages == []


def test_work_that_was_done_too_late_is_undone_first() -> None:
    """The stage stays cancelled, and what its handler did and gave is handed to its compensation."""
    run = reached("c")
    run.start("c")
    run.do(CancelWorkflow())
    events = run.complete("c", output={"made": "late"})
    assert events[0] == TaskStopped(
        task_id="run-1:c:1", stage="c", attempt=1, worker="w1", completed=True, output={"made": "late"}
    )
    assert run.open_stages == ["c"]
    assert run.stages["c"].status == "cancelled"
    assert run.folded().outputs.keys() == {"a:1", "b:1", "c:1"}
    assert set(run.folded().stage_outputs()) == {"a", "b"}
    run.complete("c")
    run.complete("a")
    assert [task_id for task_id, _, _ in undoings(run)] == ["run-1:c:2", "run-1:a:2"]
    checked(run)


def test_a_first_stage_that_may_do_its_work_is_waited_for() -> None:
    """Nothing has completed, and yet there may be something to undo."""
    run = reached("a")
    run.start("a")
    run.do(CancelWorkflow())
    assert run.state.status == "running"
    assert names(run.report(builders.cancelled("run-1:a:1"))) == ["TaskStopped", "WorkflowCancelled"]
    checked(run)


def test_the_grace_bounds_the_wait() -> None:
    """Who has not stopped by then is named; what he does afterwards is undone as well, while the run is open."""
    run = reached("c")
    run.start("c")
    run.do(CancelWorkflow())
    early = FireTimer(kind="grace", stage="", attempt=1, due_at=run.now)
    assert run.do(early) == []
    events = run.fire("grace")
    assert events[0] == CancelGraceEnded(tasks=("run-1:c:1",))
    assert names(events[1:]) == ["TaskDispatched"]
    assert run.timers.keys() == set()
    assert names(run.complete("c", output="late")) == ["TaskStopped"]
    assert names(run.complete("a")) == ["TaskStarted", "StageCompensated", "TaskDispatched"]
    assert names(run.complete("c")) == ["TaskStarted", "StageCompensated", "WorkflowCancelled"]
    assert names(run.complete("c", output="again")) == ["ReportIgnored"]
    checked(run)


def test_a_stage_is_undone_once_in_a_round() -> None:
    """Two of its attempts did their work too late, the second of them while the first is undone: that one is ignored."""
    twice = RetryPolicy(max_attempts=2, backoff_seconds=1.0)
    run = History(pipeline(undone("a", timeout_seconds=30.0, retry=twice), cancel_grace_seconds=5.0))
    run.create()
    run.start("a")
    run.fire("attempt", "a")
    run.fire("retry", "a")
    run.start("a")
    assert names(run.fire("attempt", "a"))[-1] == "CompensationStarted"
    assert names(run.report(builders.completed("run-1:a:1", "first"))) == ["TaskStopped"]
    assert names(run.fire("grace")) == ["CancelGraceEnded", "TaskDispatched"]
    assert names(run.report(builders.completed("run-1:a:2", "second"))) == ["ReportIgnored", "TaskStopped"]
    assert names(run.complete("a"))[-1] == "WorkflowFailed"
    assert [task_id for task_id, _, _ in undoings(run)] == ["run-1:a:3"]
    checked(run)


def test_a_handler_that_timed_out_is_waited_for_too() -> None:
    """Its attempt failed long ago for the log; it may be at work all the same."""
    run = History(pipeline(undone("a"), stage("b", "a", timeout_seconds=30.0), cancel_grace_seconds=5.0))
    run.create()
    run.complete("a")
    run.start("b")
    assert names(run.fire("attempt", "b")) == ["TaskFailed"]
    run.fire("retry", "b")
    run.start("b")
    assert give_up(run, "b")[-1] == "CompensationStarted"
    assert run.timers.keys() == {("grace", "")}
    assert names(run.report(builders.stopped("run-1:b:1"))) == ["TaskStopped", "TaskDispatched"]
    checked(run)


def test_a_compensation_has_attempts_of_its_own() -> None:
    """After the last one the others are undone nevertheless, and the end names what was not."""
    run = reached("d")
    give_up(run, "d")
    for attempt in (2, 3):
        assert names(run.fail("c"))[-1] == "TaskFailed"
        assert run.stages["c"].attempt == attempt
        assert names(run.fire("retry", "c")) == ["TaskDispatched"]
    events = run.fail("c")
    assert names(events) == ["TaskStarted", "TaskFailed", "CompensationFailed", "TaskDispatched"]
    failed = events[2]
    assert isinstance(failed, CompensationFailed)
    assert (failed.stage, failed.error.reason, failed.error.details["attempts"]) == ("c", "retry-budget", 3)
    assert run.state.compensation_of("c") == "failed"
    ended = run.complete("a")[-1]
    assert isinstance(ended, WorkflowFailed)
    assert (ended.stage, ended.not_compensated) == ("d", ("c",))
    checked(run)


def test_a_compensation_that_times_out_is_told_to_stop_before_the_next_one() -> None:
    """Two that undo never work at the same time, also when the wait for the next attempt is over before."""
    run = reached("d")
    give_up(run, "d")
    run.start("c")
    assert names(run.fire("attempt", "c")) == ["TaskFailed"]
    assert run.timers.keys() == {("grace", "")}
    run.advance(2.0)
    assert names(run.report(builders.cancelled("run-1:c:2"))) == ["TaskStopped", "TaskDispatched"]
    run.start("c")
    run.fire("attempt", "c")
    assert names(run.report(builders.cancelled("run-1:c:3"))) == ["TaskStopped"]
    assert run.timers.keys() == {("retry", "c")}
    assert names(run.fire("retry", "c")) == ["TaskDispatched"]
    run.complete("c")
    run.complete("a")
    checked(run)


def test_a_stage_keeps_its_error_while_it_is_undone() -> None:
    """What its compensation says of itself is not why the run failed."""
    run = History(pipeline(undone("a", timeout_seconds=30.0, retry=RetryPolicy(max_attempts=1))))
    run.create()
    run.start("a")
    assert names(run.fire("attempt", "a")) == ["TaskFailed", "StageFailed", "CompensationStarted"]
    assert names(run.complete("a", output=1)) == ["TaskStopped", "TaskDispatched"]
    run.fail("a", reason="no-way", retryable=False)
    assert run.state.status == "failed"
    error = run.stages["a"].error
    assert error is not None
    assert error.details["last_reason"] == "attempt-timeout"
    checked(run)


def test_nothing_but_a_pause_is_allowed_meanwhile() -> None:
    """A cancellation is refused, whatever the run ends as: it would have to leave half of it undone."""
    run = reached("d")
    give_up(run, "d")
    for command in (CancelWorkflow(), RetryWorkflow()):
        with pytest.raises(CommandRefused, match="ending as failed") as refused:
            run.do(command)
        assert refused.value.allowed == ("pause",)
    run.do(PauseWorkflow())
    with pytest.raises(CommandRefused) as refused:
        run.do(CancelWorkflow())
    assert refused.value.allowed == ("resume",)


def test_a_pause_holds_up_what_is_to_be_undone() -> None:
    """What is being undone goes on, and its report counts; the next one waits for the end of the pause."""
    run = reached("d")
    give_up(run, "d")
    run.do(PauseWorkflow())
    assert names(run.complete("c")) == ["TaskStarted", "StageCompensated"]
    assert run.open_stages == []
    assert names(run.do(ResumeWorkflow())) == ["WorkflowResumed", "TaskDispatched"]
    run.do(PauseWorkflow())
    assert names(run.complete("a"))[-1] == "WorkflowFailed"
    checked(run)


def test_a_failure_in_a_pause_leaves_it_paused() -> None:
    """The grace stands still as well."""
    run = reached("left", BRANCHES)
    run.start("left")
    run.do(PauseWorkflow())
    run.advance(60.0)
    assert give_up(run, "right") == ["TaskStarted", "TaskFailed", "StageFailed", "CompensationStarted"]
    assert (run.state.status, run.timers) == ("paused", {})
    run.advance(60.0)
    run.do(ResumeWorkflow())
    assert run.timers == {("grace", ""): run.now + 5 * SECOND}
    run.report(builders.cancelled("run-1:left:1"))
    run.complete("a")
    checked(run)


def test_a_cancellation_ends_a_pause() -> None:
    """Nobody would resume what he cancelled."""
    run = reached("d")
    run.start("d")
    run.do(PauseWorkflow())
    run.advance(60.0)
    run.do(CancelWorkflow())
    assert (run.state.status, run.state.paused_at) == ("running", None)
    assert run.timers == {("grace", ""): run.now + 5 * SECOND}
    run.report(builders.cancelled("run-1:d:1"))
    run.complete("c")
    run.complete("a")
    checked(run)


def test_a_retry_runs_again_what_was_undone_and_what_was_made_from_it() -> None:
    """What comes before the first stage that was undone keeps its result; attempts go on counting."""
    run = reached("d", pipeline(stage("a"), undone("b", "a"), stage("c", "b"), stage("d", "c")))
    give_up(run, "d")
    run.complete("b")
    retried = run.do(RetryWorkflow())
    assert isinstance(retried[0], WorkflowRetried)
    assert retried[0].reset == ("b", "c", "d")
    assert [event.task_id for event in retried if isinstance(event, TaskDispatched)] == ["run-1:b:3"]
    for name in "bcd":
        run.complete(name, output="again")
    assert run.state.status == "completed"
    checked(run)


def test_what_could_not_be_undone_is_undone_with_the_next_round() -> None:
    """Its stage stays completed: what it did is still there."""
    run = reached("b", pipeline(undone("a"), stage("b", "a")))
    give_up(run, "b")
    run.fail("a", retryable=False)
    assert run.state.status == "failed"
    retried = run.do(RetryWorkflow())
    assert isinstance(retried[0], WorkflowRetried)
    assert retried[0].reset == ("b",)
    assert give_up(run, "b")[-1] == "TaskDispatched"
    assert run.complete("a")[-1] == WorkflowFailed(error=run.stages["b"].error, stage="b")  # type: ignore[arg-type]  # it has one
    checked(run)


def test_used_up_attempts_are_flagged_at_the_end() -> None:
    """The stall stands when the run has failed, and not while it moves."""
    run = reached("d")
    run.fail("d")
    for _ in range(2):
        run.fire("retry", "d")
        run.fail("d")
    assert run.state.stall is None
    run.complete("c")
    assert names(run.complete("a"))[-2:] == ["WorkflowStalled", "WorkflowFailed"]
    assert run.state.stall is not None
    assert run.state.stall.cause == "retry-budget"
    checked(run)


def test_a_task_that_undoes_has_the_inputs_of_its_stage_and_its_output() -> None:
    """And knows what it is; its agent is that of the compensation, where it is dispatched and where it is closed."""
    run = reached("d")
    before, position = run.state, len(run.records)
    give_up(run, "d")
    append = plan(
        LINE,
        before,
        run.state,
        [DecidedEvent(event=item.event, at=item.at, command=item.command) for item in run.records[position:]],
        traceparents=[""] * (len(run.records) - position),
        reported=["run-1:d:1"],
    )
    (dispatch,) = append.dispatches
    assert (dispatch.message.compensation, dispatch.message.agent) == (True, "agent")
    assert dispatch.message.inputs == (("a", 1), ("b", 1), ("c", 1))
    assert [(closing.task_id, closing.reported, closing.awaited) for closing in append.closings] == [
        ("run-1:d:1", True, False)
    ]
    run.complete("c")
    before, position = run.state, len(run.records)
    run.start("a")
    run.complete("a")
    append = plan(
        LINE,
        before,
        run.state,
        [DecidedEvent(event=item.event, at=item.at, command=item.command) for item in run.records[position:]],
        traceparents=[""] * (len(run.records) - position),
        reported=["run-1:a:2"],
    )
    assert [closing.agent for closing in append.closings] == ["undoer"]
    assert isinstance(run.events[-2], StageCompensated)
