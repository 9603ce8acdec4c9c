"""How a run goes: from stage to stage, over failures and limits, to its end."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.core.clock import SECOND, to_us
from tailrace.core.commands import FireTimer, RedispatchTask, Report
from tailrace.core.events import (
    ReportIgnored,
    StageCompleted,
    StageFailed,
    TaskDispatched,
    TaskFailed,
    TaskProgressed,
    TaskRedispatched,
    TaskStarted,
    WorkflowFailed,
    WorkflowStalled,
)
from tailrace.core.testing.builders import (
    cancelled,
    completed,
    diamond,
    failed,
    line,
    lost,
    pipeline,
    poison,
    progressed,
    stage,
    started,
)
from tailrace.core.testing.history import History, created, names
from tailrace.core.workflow.definition import RetryPolicy

ONCE = RetryPolicy(max_attempts=1)


def begun(*stages: Any) -> History:
    """A run of these stages (or of one called `only`) that was just created."""
    run = History(pipeline(*(stages or (stage("only"),))))
    run.create()
    return run


def test_a_new_run_dispatches_what_needs_nothing() -> None:
    """In the same decision; it is initiated until somebody begins."""
    run = History(pipeline(stage("a", agent="x"), stage("b"), stage("c", "a")))
    events = run.create(priority="high", input={"k": 1}, labels={"team": "t"}, body_hash="h")
    assert names(events) == ["WorkflowCreated", "TaskDispatched", "TaskDispatched"]
    assert [event.task_id for event in events if isinstance(event, TaskDispatched)] == ["run-1:a:1", "run-1:b:1"]
    assert run.events[1] == TaskDispatched(task_id="run-1:a:1", stage="a", attempt=1, agent="x", action="a")
    first = created(run)
    assert (first.definition, first.priority, first.input) == (run.pipeline.hash, "high", {"k": 1})
    assert (first.labels, first.body_hash) == ({"team": "t"}, "h")
    assert [(planned.name, planned.weight) for planned in first.stages] == [("a", 1), ("b", 1), ("c", 1)]
    assert (run.state.status, run.state.version, run.state.progress_percentage) == ("initiated", 3, 0)
    run.start("b")
    assert run.state.status == "running"


def test_a_line_goes_from_stage_to_stage_to_its_end() -> None:
    """Completed, with all outputs and at 100 %."""
    run = History(line("a", "b"))
    run.create()
    run.start("a")
    assert names(run.complete("a", output={"n": 1})) == ["StageCompleted", "TaskDispatched"]
    assert (run.state.progress_percentage, run.state.current_stage) == (50, "b")
    run.start("b")
    assert names(run.complete("b", output="done")) == ["StageCompleted", "WorkflowCompleted"]
    assert (run.state.status, run.state.completed_at, run.state.current_stage) == ("completed", run.now, None)
    assert run.state.progress_percentage == 100
    assert run.folded().stage_outputs() == {"a": {"n": 1}, "b": "done"}


def test_branches_run_side_by_side_and_join() -> None:
    """A stage is dispatched when the last of its needs is met, and only once."""
    run = History(diamond())
    run.create()
    assert names(run.complete("start", worker="")) == ["StageCompleted", "TaskDispatched", "TaskDispatched"]
    assert run.open_stages == ["left", "right"]
    assert names(run.complete("right", worker="")) == ["StageCompleted"]
    assert run.open_stages == ["left"]
    assert names(run.complete("left", worker="")) == ["StageCompleted", "TaskDispatched"]
    assert run.open_stages == ["join"]


@pytest.mark.failure(23)
def test_progress_is_finished_weight() -> None:
    """Stages without weight do not move it."""
    run = begun(stage("a", weight=1), stage("b", "a", weight=0), stage("c", "b", weight=2))
    for name, percentage in (("a", 33), ("b", 33), ("c", 100)):
        run.complete(name)
        assert run.state.progress_percentage == percentage


def test_a_start_begins_the_clock_of_the_attempt() -> None:
    """With who works on it, and on what build."""
    run = begun(stage("only", timeout_seconds=90))
    run.advance(7)
    assert run.start("only", worker="w9", build="b1") == [
        TaskStarted(
            task_id="run-1:only:1",
            stage="only",
            attempt=1,
            worker="w9",
            build="b1",
            due_at=run.now + 90 * SECOND,
        )
    ]
    assert run.start("only", worker="w9", build="b1") == []


def test_a_result_without_a_start_brings_the_start_along() -> None:
    """The start was lost or is still on its way: both are in one decision."""
    run = begun()
    events = run.complete("only", worker="w1")
    assert names(events) == ["TaskStarted", "StageCompleted", "WorkflowCompleted"]
    assert run.report(started("run-1:only:1")) == []


def test_a_later_delivery_begins_anew() -> None:
    """Its worker and its clock replace those of the one that vanished; the attempt is the same."""
    run = begun(stage("only", timeout_seconds=60))
    run.start("only", worker="w1")
    run.advance(10)
    (event,) = run.start("only", worker="w2", delivery=2)
    assert isinstance(event, TaskStarted)
    assert (event.attempt, event.delivery, event.due_at) == (1, 2, run.now + 60 * SECOND)
    assert (run.task("only").worker, run.stages["only"].attempt, run.stages["only"].tries) == ("w2", 1, 1)


def test_progress_within_a_task_only_rises() -> None:
    """Whatever a worker says."""
    run = begun()
    run.start("only")
    fractions = []
    for said in (0.3, 0.1, 0.7, 7.0, -1.0):
        (event,) = run.report(progressed(run.task_id("only"), said))
        assert isinstance(event, TaskProgressed)
        fractions.append(event.fraction)
    assert fractions == [0.3, 0.3, 0.7, 1.0, 1.0]
    assert names(begun().report(progressed("run-1:only:1", 0.5))) == ["TaskStarted", "TaskProgressed"]


def test_a_failed_attempt_is_tried_again_after_a_wait() -> None:
    """The wait grows; each attempt has a task of its own."""
    run = begun()
    waits = []
    for attempt in (1, 2):
        run.start("only")
        (event,) = run.fail("only")
        assert isinstance(event, TaskFailed)
        assert event.retry_at is not None
        assert (event.attempt, event.error.reason, event.worker) == (attempt, "handler-error", "w1")
        waits.append((event.retry_at - run.now) / SECOND)
        (dispatched,) = run.fire("retry", "only")
        assert isinstance(dispatched, TaskDispatched)
        assert dispatched.task_id == f"run-1:only:{attempt + 1}"
    assert 1.0 <= waits[0] <= 1.1
    assert 2.0 <= waits[1] <= 2.2


def test_the_last_attempt_fails_the_run() -> None:
    """With the number of attempts and the last reason; the stall names what to do."""
    run = begun()
    for _ in range(2):
        run.fail("only")
        run.fire("retry", "only")
    events = run.fail("only")
    assert names(events) == ["TaskStarted", "TaskFailed", "StageFailed", "WorkflowStalled", "WorkflowFailed"]
    stage_failed, stalled, failure = events[2:]
    assert isinstance(stage_failed, StageFailed)
    assert isinstance(stalled, WorkflowStalled)
    assert isinstance(failure, WorkflowFailed)
    assert stage_failed.error == failure.error
    assert (failure.error.reason, failure.stage) == ("retry-budget", "only")
    assert failure.error.details == {"attempts": 3, "last_reason": "handler-error", "last_details": {}}
    assert stalled.cause == "retry-budget"
    assert "--from-stage only" in stalled.suggestion
    assert run.state.error == failure.error


def test_what_cannot_be_mended_is_not_tried_again() -> None:
    """The stage fails with the reason itself, and that is no stall."""
    run = begun()
    events = run.fail("only", reason="invalid-input", retryable=False)
    assert names(events) == ["TaskStarted", "TaskFailed", "StageFailed", "WorkflowFailed"]
    assert run.state.error is not None
    assert run.state.error.reason == "invalid-input"


def test_a_failed_stage_ends_the_others() -> None:
    """What runs or waits for its next attempt is cancelled, what had not begun is skipped, what was done stays."""
    run = begun(stage("done"), stage("bad"), stage("runs"), stage("waits"), stage("later", "runs"))
    run.complete("done")
    run.start("runs")
    run.fail("waits")
    run.fail("bad", retryable=False)
    statuses = {name: found.status for name, found in run.stages.items()}
    assert statuses == {
        "done": "completed",
        "bad": "failed",
        "runs": "cancelled",
        "waits": "cancelled",
        "later": "skipped",
    }
    assert run.open_stages == []
    assert run.timers == {}


@pytest.mark.parametrize("kind", ["start", "attempt"])
def test_a_limit_that_passed_fails_the_attempt(kind: str) -> None:
    """It may be tried again, and the reason says which limit it was."""
    run = begun(stage("only", start_timeout_seconds=10, timeout_seconds=20))
    if kind == "attempt":
        run.start("only")
    (event,) = run.fire(kind, "only")
    assert isinstance(event, TaskFailed)
    assert (event.error.reason, event.error.retryable) == (f"{kind}-timeout", True)
    assert event.worker == ("w1" if kind == "attempt" else "")
    assert event.retry_at is not None


@pytest.mark.parametrize("kind", ["start", "attempt", "retry", "unheard-of"])
def test_a_timer_that_means_nothing_any_more_does_nothing(kind: str) -> None:
    """Of an earlier attempt, of a stage that is done or that never was, or before its time."""
    run = begun(stage("only", start_timeout_seconds=10), stage("done"))
    run.complete("done")
    run.fail("only")
    run.fire("retry", "only")
    for name, attempt in (("only", 1), ("done", 1), ("missing", 1), ("only", 2), ("only", 3)):
        assert run.do(FireTimer(kind=kind, stage=name, attempt=attempt, due_at=run.now)) == []


def test_a_timer_of_an_earlier_attempt_does_nothing() -> None:
    """Also when the time of the present attempt has passed: that one has a timer of its own."""
    run = begun(stage("only", timeout_seconds=10, start_timeout_seconds=10))
    old = {
        kind: FireTimer(kind=kind, stage="only", attempt=1, due_at=run.now) for kind in ("start", "attempt", "retry")
    }
    run.fail("only")
    run.fire("retry", "only")
    run.advance(1000)
    assert run.do(old["start"]) == []
    run.advance(-990)
    run.start("only")
    run.advance(1000)
    assert run.do(old["attempt"]) == []
    run.fail("only")
    run.advance(1000)
    assert run.do(old["retry"]) == []


def test_a_timer_counts_though_the_clock_was_set_back() -> None:
    """The store said that it was due, and it is removed by this decision: it will not come again."""
    run = begun(stage("only", timeout_seconds=20))
    run.start("only")
    due_at = run.timers["attempt", "only"]
    run.advance(-5)
    assert names(run.do(FireTimer(kind="attempt", stage="only", attempt=1, due_at=due_at))) == ["TaskFailed"]
    retry_at = run.timers["retry", "only"]
    assert names(run.do(FireTimer(kind="retry", stage="only", attempt=1, due_at=retry_at))) == ["TaskDispatched"]


def test_poison_is_not_tried_again() -> None:
    """Each delivery ended with a dead worker: another attempt would kill the next ones."""
    run = begun()
    run.start("only")
    events = run.report(poison(run.task_id("only")))
    assert names(events) == ["TaskFailed", "StageFailed", "WorkflowStalled", "WorkflowFailed"]
    assert isinstance(events[2], WorkflowStalled)
    assert events[2].cause == "poison"
    assert run.state.error is not None
    assert run.state.error.reason == "poison"


def test_a_lost_entry_is_sent_again() -> None:
    """Under the same id, without using up an attempt, with a new time to start."""
    run = begun(stage("only", start_timeout_seconds=30))
    run.start("only")
    run.advance(100)
    (event,) = run.report(lost(run.task_id("only")))
    assert isinstance(event, TaskRedispatched)
    assert (event.task_id, event.attempt, event.reason) == ("run-1:only:1", 1, "entry-gone")
    task = run.task("only")
    assert (task.dispatched_at, task.started_at, task.worker) == (run.now, None, "")
    assert run.timers == {("start", "only"): run.now + 30 * SECOND}
    assert run.stages["only"].tries == 1
    assert run.report(lost("run-1:only:7")) == []


def test_a_redispatch_on_request_does_the_same() -> None:
    """And nothing for a task that is not open."""
    run = begun()
    assert names(run.do(RedispatchTask(task_id="run-1:only:1", reason="gone"))) == ["TaskRedispatched"]
    run.complete("only")
    assert run.do(RedispatchTask(task_id="run-1:only:1", reason="gone")) == []


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (completed("run-1:a:1"), "task-closed"),
        (failed("run-1:a:1"), "task-closed"),
        (poison("run-1:a:1"), "task-closed"),
        (completed("run-1:b:2"), "unknown-task"),
        (completed("run-1:b[0]:1"), "unknown-task"),
        (completed("run-1:missing:1"), "unknown-task"),
        (completed("run-2:b:1"), "unknown-task"),
        (completed("nonsense"), "unknown-task"),
        (Report(kind="invented", task_id="run-1:b:1"), "unknown-report"),
    ],
)
def test_work_that_counts_for_nothing_is_recorded(report: Report, reason: str) -> None:
    """Whatever somebody did in vain is in the history, with the reason, and changes nothing else."""
    run = History(line("a", "b"))
    run.create()
    run.complete("a")
    before = run.state
    (event,) = run.report(report)
    assert event == ReportIgnored(task_id=report.task_id, report=report.kind, reason=reason, worker=report.worker)
    assert run.stages == before.stages
    assert run.state.status == before.status


@pytest.mark.parametrize("report", [started("run-1:a:1"), progressed("run-1:a:1", 1), cancelled("run-1:a:1")])
def test_a_late_word_without_work_is_dropped(report: Report) -> None:
    """Nobody's work was lost with it."""
    run = History(line("a", "b"))
    run.create()
    run.complete("a")
    assert run.report(report) == []


def test_a_worker_that_gives_up_by_itself_failed() -> None:
    """It was not told to: the attempt may be tried again."""
    run = begun()
    run.start("only")
    (event,) = run.report(cancelled(run.task_id("only")))
    assert isinstance(event, TaskFailed)
    assert event.error.reason == "cancelled-by-worker"
    assert event.retry_at is not None


def test_a_report_comes_once_into_effect() -> None:
    """The second one is recorded as ignored."""
    run = begun(stage("only"), stage("other"))
    report = completed(run.task_id("only"), 1)
    assert "StageCompleted" in names(run.report(report))
    assert names(run.report(report)) == ["ReportIgnored"]
    assert sum(isinstance(event, StageCompleted) for event in run.events) == 1


@pytest.mark.failure(16)
def test_a_late_report_of_an_earlier_attempt_is_ignored() -> None:
    """The next attempt is on its way; its task is the open one."""
    run = begun(stage("only", timeout_seconds=10))
    run.start("only")
    run.fire("attempt", "only")
    assert names(run.report(completed("run-1:only:1"))) == ["ReportIgnored"]
    run.fire("retry", "only")
    assert names(run.report(completed("run-1:only:1"))) == ["ReportIgnored"]
    assert run.open_stages == ["only"]


@pytest.mark.hole("H29")
def test_times_never_fall() -> None:
    """A clock that is set back does not set a history back."""
    run = begun(stage("only", timeout_seconds=10))
    run.advance(-3600)
    run.start("only")
    times = [record.at for record in run.records]
    assert times == sorted(times)
    assert run.task("only").due_at == times[-1] + to_us(10)


def test_one_attempt_is_one_attempt() -> None:
    """A policy without a second one fails at the first."""
    run = begun(stage("only", retry=ONCE))
    assert "WorkflowFailed" in names(run.fail("only"))
