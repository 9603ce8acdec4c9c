"""What people ask of a run: pause, resume, cancel, retry; and what the watchdog records."""

from __future__ import annotations

import pytest

from tailrace.core.clock import SECOND, to_us
from tailrace.core.commands import (
    ApplyReport,
    CancelWorkflow,
    Command,
    FireTimer,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.errors import CommandRefused, InvalidInput
from tailrace.core.events import StallCleared, TaskDispatched, TaskRedispatched, WorkflowRetried, WorkflowStalled
from tailrace.core.testing.builders import completed, create_workflow, diamond, line, lost, pipeline, stage, started
from tailrace.core.testing.history import History, names
from tailrace.core.workflow.decide import allowed_commands, decide
from tailrace.core.workflow.state import WorkflowStatus

STALL = FlagStall(cause="no-worker", hop="tasks", summary="nobody", suggestion="start one", evidence={"backlog": 1})


def in_status(status: WorkflowStatus) -> History:
    """A run of two stages in a status."""
    run = History(line("a", "b"))
    run.create()
    match status:
        case "initiated":
            pass
        case "running":
            run.start("a")
        case "paused":
            run.do(PauseWorkflow())
        case "completed":
            run.complete("a")
            run.complete("b")
        case "failed":
            run.fail("a", retryable=False)
        case "cancelled":
            run.do(CancelWorkflow())
    assert run.state.status == status
    return run


ALLOWED: dict[WorkflowStatus, set[str]] = {
    "initiated": {"cancel", "pause"},
    "running": {"cancel", "pause"},
    "paused": {"cancel", "resume"},
    "completed": {"retry"},
    "failed": {"retry"},
    "cancelled": {"retry"},
}
COMMANDS: dict[str, Command] = {
    "cancel": CancelWorkflow(reason="r"),
    "pause": PauseWorkflow(reason="r"),
    "resume": ResumeWorkflow(),
    "retry": RetryWorkflow(from_stage="a"),
}
AFTER = {"cancel": "cancelled", "pause": "paused", "resume": "initiated"}


@pytest.mark.parametrize("status", ALLOWED)
@pytest.mark.parametrize("name", COMMANDS)
def test_each_status_allows_its_commands(status: WorkflowStatus, name: str) -> None:
    """The others are refused with the status and what it allows, and change nothing."""
    run = in_status(status)
    assert set(allowed_commands(run.state)) == ALLOWED[status]
    if name in ALLOWED[status]:
        assert run.do(COMMANDS[name])
        assert run.state.status == AFTER.get(name, run.state.status)
        return
    before = run.state
    with pytest.raises(CommandRefused) as caught:
        run.do(COMMANDS[name])
    assert (caught.value.command, caught.value.status) == (name, status)
    assert set(caught.value.allowed) == ALLOWED[status]
    assert run.state is before


@pytest.mark.parametrize("status", ALLOWED)
def test_a_run_is_created_once(status: WorkflowStatus) -> None:
    """Whatever became of it."""
    run = in_status(status)
    with pytest.raises(CommandRefused):
        run.create()


@pytest.mark.parametrize("status", ALLOWED)
@pytest.mark.parametrize(
    "command",
    [
        ApplyReport(report=completed("run-1:a:9")),
        ApplyReport(report=started("nonsense")),
        FireTimer(kind="attempt", stage="a", attempt=9, due_at=1),
        FireTimer(kind="retry", stage="missing", attempt=1, due_at=1),
        RedispatchTask(task_id="run-1:b:9", reason="r"),
        STALL,
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_comes_by_itself_is_never_refused(status: WorkflowStatus, command: Command) -> None:
    """A report or a timer has to leave its stream in every status, and the status stays as it was."""
    run = in_status(status)
    run.do(command)
    assert run.state.status == status


def test_without_a_run_there_is_only_a_create() -> None:
    """Everything else needs one."""
    of = line("a")
    with pytest.raises(InvalidInput):
        decide(of, None, PauseWorkflow(), 1)
    assert decide(of, None, create_workflow(of, "run-1"), 1)


def test_a_cancelled_run_has_no_open_task() -> None:
    """What runs and what waits is cancelled; what was done stays done."""
    run = History(line("a", "b", "c"))
    run.create()
    run.complete("a")
    run.start("b")
    assert names(run.do(CancelWorkflow(reason="r"))) == ["WorkflowCancelled"]
    assert {name: found.status for name, found in run.stages.items()} == {
        "a": "completed",
        "b": "cancelled",
        "c": "cancelled",
    }
    assert (run.open_stages, run.timers) == ([], {})
    assert names(run.complete("b")) == ["ReportIgnored"]
    assert run.state.status == "cancelled"


def test_a_paused_run_takes_results_but_dispatches_nothing() -> None:
    """Running handlers go on; the next stage waits for the end of the pause."""
    run = History(line("a", "b"))
    run.create()
    run.start("a")
    run.do(PauseWorkflow())
    assert names(run.complete("a", output=1)) == ["StageCompleted"]
    assert (run.open_stages, run.state.status) == ([], "paused")
    assert names(run.do(ResumeWorkflow())) == ["WorkflowResumed", "TaskDispatched"]
    assert (run.open_stages, run.state.status) == (["b"], "running")


def test_a_run_may_end_while_it_is_paused() -> None:
    """Its last result completes it, and a failure for good fails it."""
    run = History(line("a"))
    run.create()
    run.do(PauseWorkflow())
    assert names(run.complete("a")) == ["TaskStarted", "StageCompleted", "WorkflowCompleted"]
    assert (run.state.status, run.state.paused_at) == ("completed", None)
    other = in_status("paused")
    assert "WorkflowFailed" in names(other.fail("a", retryable=False))


def test_the_clocks_of_a_paused_run_stand_still() -> None:
    """What was left of each limit is left after it."""
    run = History(pipeline(stage("runs", timeout_seconds=100), stage("queued", start_timeout_seconds=50)))
    run.create()
    run.start("runs")
    run.advance(10)
    run.do(PauseWorkflow())
    run.advance(10_000)
    run.do(ResumeWorkflow())
    assert run.timers == {("attempt", "runs"): run.now + 90 * SECOND, ("start", "queued"): run.now + 40 * SECOND}


def test_what_begins_or_fails_in_a_pause_has_its_whole_time_after_it() -> None:
    """Its clock begins to run with the resumption."""
    run = History(
        pipeline(stage("starts", timeout_seconds=100), stage("fails"), stage("gone", start_timeout_seconds=30))
    )
    run.create()
    run.do(PauseWorkflow())
    run.advance(40)
    run.start("starts")
    run.fail("fails")
    run.do(RedispatchTask(task_id=run.task_id("gone"), reason="gone"))
    assert ("start", "gone") not in run.timers
    run.advance(60)
    run.do(ResumeWorkflow())
    due = run.timers
    assert due["attempt", "starts"] == run.now + 100 * SECOND
    assert due["start", "gone"] == run.now + 30 * SECOND
    assert run.now + to_us(1.0) <= due["retry", "fails"] <= run.now + to_us(1.1)


def test_a_task_that_is_lost_in_a_pause_is_sent_again_with_the_resumption() -> None:
    """Nothing is dispatched before; that it is lost is said once, however often it is reported."""
    run = History(pipeline(stage("only", start_timeout_seconds=30)))
    run.create()
    run.start("only")
    run.do(PauseWorkflow())
    assert names(run.report(lost(run.task_id("only")))) == ["TaskLost"]
    assert run.report(lost(run.task_id("only"))) == []
    assert run.do(RedispatchTask(task_id=run.task_id("only"), reason="gone")) == []
    run.advance(60)
    assert names(run.do(ResumeWorkflow())) == ["WorkflowResumed", "TaskRedispatched"]
    assert isinstance(event := run.events[-1], TaskRedispatched)
    assert (event.task_id, event.reason) == ("run-1:only:1", "entry-gone")
    task = run.task("only")
    assert (task.dispatched_at, task.started_at, task.lost) == (run.now, None, "")
    assert run.timers == {("start", "only"): run.now + 30 * SECOND}
    run.do(PauseWorkflow())
    assert names(run.do(ResumeWorkflow())) == ["WorkflowResumed"]


def test_the_result_of_a_task_that_was_lost_in_a_pause_still_counts() -> None:
    """It was reported before; or the run is cancelled, and nothing is sent again."""
    run = History(pipeline(stage("only")))
    run.create()
    run.do(PauseWorkflow())
    run.report(lost(run.task_id("only")))
    run.complete("only")
    assert run.state.status == "completed"
    other = History(pipeline(stage("only")))
    other.create()
    other.do(PauseWorkflow())
    other.report(lost(other.task_id("only")))
    other.do(CancelWorkflow())
    assert names(other.do(RetryWorkflow())) == ["WorkflowRetried", "TaskDispatched"]


def test_a_timer_does_nothing_in_a_pause() -> None:
    """Also one that was due before it."""
    run = History(pipeline(stage("only", timeout_seconds=10)))
    run.create()
    run.start("only")
    due_at = run.timers["attempt", "only"]
    run.do(PauseWorkflow())
    run.advance(60)
    assert run.do(FireTimer(kind="attempt", stage="only", attempt=1, due_at=due_at)) == []


def test_a_retry_whose_time_has_come_is_dispatched_with_the_resumption() -> None:
    """It does not wait for another poll of the timers."""
    run = in_status("initiated")
    run.fail("a")
    retry_at = run.timers["retry", "a"]
    run.now = retry_at
    run.do(PauseWorkflow())
    run.advance(5)
    assert names(run.do(ResumeWorkflow())) == ["WorkflowResumed", "TaskDispatched"]


def test_a_retry_goes_on_from_what_was_done() -> None:
    """A new round: what completed is kept, attempts count on, tries begin anew."""
    run = History(line("a", "b", "c"))
    run.create()
    run.complete("a", output="kept")
    run.fail("b", retryable=False)
    events = run.do(RetryWorkflow())
    assert names(events) == ["WorkflowRetried", "TaskDispatched"]
    assert events[0] == WorkflowRetried(round=2, reset=("b", "c"))
    assert run.state.round == 2
    assert (run.stages["b"].attempt, run.stages["b"].tries) == (2, 1)
    assert (run.state.error, run.state.completed_at, run.state.progress_percentage) == (None, None, 33)
    run.complete("b")
    run.complete("c")
    assert run.state.status == "completed"
    assert run.folded().stage_outputs()["a"] == "kept"


def test_a_retry_may_begin_further_up() -> None:
    """That stage and all that need it run again, though they completed."""
    run = History(diamond())
    run.create()
    for name in ("start", "left", "right", "join"):
        run.complete(name, output=f"{name} of round 1")
    events = run.do(RetryWorkflow(from_stage="left"))
    assert events[0] == WorkflowRetried(round=2, reset=("left", "join"), from_stage="left")
    assert run.open_stages == ["left"]
    run.complete("left", output="left of round 2")
    run.complete("join", output="join of round 2")
    assert run.folded().stage_outputs() == {
        "start": "start of round 1",
        "left": "left of round 2",
        "right": "right of round 1",
        "join": "join of round 2",
    }


def test_a_retry_also_takes_up_what_another_stage_left_open() -> None:
    """Everything that did not complete is part of the new round."""
    run = History(pipeline(stage("good"), stage("bad"), stage("other"), stage("last", "other")))
    run.create()
    run.complete("good")
    run.fail("bad", retryable=False)
    run.do(RetryWorkflow(from_stage="good"))
    assert set(run.open_stages) == {"good", "bad", "other"}


def test_a_retry_needs_something_to_do() -> None:
    """A stage that is there, or work that is left."""
    run = in_status("completed")
    with pytest.raises(CommandRefused, match=r"needs from_stage.*; allowed now: retry$") as caught:
        run.do(RetryWorkflow())
    assert caught.value.allowed == ("retry",)
    with pytest.raises(InvalidInput, match="'missing'"):
        run.do(RetryWorkflow(from_stage="missing"))


def test_reports_of_an_earlier_round_are_ignored() -> None:
    """Attempts count on over a retry, so an id never comes twice."""
    run = in_status("cancelled")
    run.do(RetryWorkflow())
    assert names(run.report(completed("run-1:a:1"))) == ["ReportIgnored"]
    assert run.open_stages == ["a"]
    assert {event.task_id for event in run.events if isinstance(event, TaskDispatched)} == {"run-1:a:1", "run-1:a:2"}


def test_a_stall_stands_until_the_run_moves() -> None:
    """It is recorded once for a cause, and cleared by the next thing that happens."""
    run = in_status("initiated")
    assert names(run.do(STALL)) == ["WorkflowStalled"]
    assert run.do(STALL) == []
    assert run.state.stall is not None
    assert (run.state.stall.cause, run.state.stall.since, run.state.stall.suggestion) == (
        "no-worker",
        run.now,
        "start one",
    )
    other = FlagStall(cause="workers-hung", hop="worker", summary="they hang")
    assert names(run.do(other)) == ["WorkflowStalled"]
    events = run.start("a")
    assert names(events) == ["StallCleared", "TaskStarted"]
    assert events[0] == StallCleared(cause="workers-hung")
    assert run.state.stall is None


def test_what_is_no_progress_does_not_clear_a_stall() -> None:
    """A report that is ignored moves nothing."""
    run = in_status("running")
    run.do(STALL)
    assert names(run.report(completed("run-1:a:9"))) == ["ReportIgnored"]
    assert run.state.stall is not None


def test_an_ended_run_does_not_stall() -> None:
    """Nothing is expected of it."""
    for status in ("completed", "failed", "cancelled"):
        assert in_status(status).do(STALL) == []


def test_a_run_that_failed_for_good_says_what_to_do_until_it_is_retried() -> None:
    """The stall of the failure goes with the new round."""
    run = History(pipeline(stage("a")))
    run.create()
    for _ in range(2):
        run.fail("a")
        run.fire("retry", "a")
    assert isinstance(run.fail("a")[-2], WorkflowStalled)
    assert run.state.stall is not None
    assert names(run.do(RetryWorkflow())) == ["StallCleared", "WorkflowRetried", "TaskDispatched"]
    assert run.state.stall is None


def test_the_last_commands_are_remembered() -> None:
    """Eight of them, with the versions they led to; reports and timers are not among them."""
    run = in_status("initiated")
    for _ in range(5):
        run.do(PauseWorkflow())
        run.do(ResumeWorkflow())
        run.do(STALL)
        run.start("a")
    assert len(run.state.commands) == 8
    assert [record.command.id for record in run.records if record.command and record.command.actor == "report"] != []
    for command_id, version in run.state.commands:
        (record,) = [found for found in run.records if found.command and found.command.id == command_id]
        assert record.command is not None
        assert record.command.type in {"PauseWorkflow", "ResumeWorkflow"}
        assert record.version <= version <= record.version + 1
    assert run.state.version_of_command("command-1") is None
