"""Courses of runs that together hold every event, every command and every kind of report.

Their histories are recorded once, beside this file, and kept for ever: see `record`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tailrace.core.commands import (
    CancelWorkflow,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.testing import builders
from tailrace.core.testing.builders import diamond, pipeline, stage, undone
from tailrace.core.testing.history import History
from tailrace.core.workflow.definition import CompensationDefinition, RetryPolicy


def completed() -> History:
    """A diamond of stages with values of every kind; work that goes on after a lost entry; late and unknown reports."""
    run = History(diamond(), "completed")
    run.create(
        description="all kinds of values: \N{SNOWMAN}",
        requirements="add and divide",
        priority="high",
        input={"none": None, "flags": [True, False], "numbers": [-(2**63), 2**64 - 1, 0.1], "text": "\U0001f600"},
        labels={"team": "core"},
    )
    run.advance(0.25)
    run.start("start", worker="w1", build="b1")
    run.report(builders.progressed(run.task_id("start"), 0.5))
    run.complete("start", output={"files": ["a.py"], "count": 1})
    run.do(RedispatchTask(task_id=run.task_id("left"), reason="entry-gone"))
    run.report(builders.lost(run.task_id("right")))
    run.complete("left", output=None)
    run.complete("left", output="too late")
    run.report(builders.completed("completed:nowhere:1"))
    run.complete("right", output=[1.5, "x"])
    run.complete("join")
    return run


def failed_and_retried() -> History:
    """Attempts that fail, time out and are given up; a stall; a stage that is poison; then a retry that completes."""
    policy = RetryPolicy(max_attempts=3, backoff_seconds=1.0, factor=2.0, max_backoff_seconds=60.0)
    run = History(
        pipeline(
            stage("first", timeout_seconds=30.0, start_timeout_seconds=10.0, retry=policy, params={"level": 2}),
            stage("second", "first", retry=policy),
        ),
        "failed-and-retried",
    )
    run.create()
    run.fire("start", "first")
    run.do(FlagStall(cause="no-worker", hop="delivery", summary="nobody is there", evidence={"backlog": 1}))
    run.fire("retry", "first")
    run.start("first")
    run.fire("attempt", "first")
    run.fire("retry", "first")
    run.start("first", worker="w2", delivery=2)
    run.fail("first")
    run.do(RetryWorkflow())
    run.complete("first", output=1)
    run.report(builders.poison(run.task_id("second")))
    run.do(RetryWorkflow(from_stage="first"))
    run.report(builders.cancelled(run.task_id("first")))
    run.fire("retry", "first")
    run.complete("first", output=2)
    run.complete("second")
    return run


def paused_and_cancelled() -> History:
    """A pause in which work ends, a resumption, and a cancellation with a reason."""
    run = History(diamond(), "paused-and-cancelled")
    run.create(priority="low")
    run.start("start")
    run.do(PauseWorkflow(reason="maintenance"))
    run.advance(60.0)
    run.complete("start", output={"ok": True})
    run.do(ResumeWorkflow())
    run.start("left")
    run.do(PauseWorkflow())
    run.report(builders.lost(run.task_id("left")))
    run.advance(1.0)
    run.do(ResumeWorkflow())
    run.do(CancelWorkflow(reason="not needed any more"))
    return run


def failed_and_undone() -> History:
    """What was done is undone, also what was done too late; a compensation that fails; a round that completes after it."""
    policy = RetryPolicy(max_attempts=2, backoff_seconds=1.0, factor=2.0, max_backoff_seconds=60.0)
    run = History(
        pipeline(
            undone("first"),
            undone("second", "first", undo="undoer", timeout_seconds=30.0, retry=policy),
            undone("beside", "first"),
            stage("third", "second", retry=policy),
            cancel_grace_seconds=5.0,
        ),
        "failed-and-undone",
    )
    run.create()
    run.complete("first", output={"made": "first"})
    run.start("second")
    run.fire("attempt", "second")
    run.fire("retry", "second")
    run.report(builders.cancelled(run.task_id("second", 1)))
    run.complete("second", output={"made": "second"})
    run.start("beside", worker="w3")
    run.fail("third")
    run.fire("retry", "third")
    run.fail("third")
    run.complete("beside", output={"made": "beside"})
    run.start("beside")
    run.complete("beside")
    for _ in range(2):
        run.fail("second")
        run.fire("retry", "second")
    run.fail("second")
    run.complete("first")
    run.do(RetryWorkflow())
    run.complete("first", output={"made": "first again"})
    run.complete("second", output={"made": "second again"})
    run.complete("beside")
    run.complete("third")
    return run


def cancelled_and_undone() -> History:
    """A handler that does not stop in time, a task that was never taken, a compensation that times out, and a pause."""
    compensate = CompensationDefinition(agent="undoer", action="undo", timeout_seconds=20.0)
    run = History(
        pipeline(stage("start", compensate=compensate), stage("left", "start"), stage("right", "start")),
        "cancelled-and-undone",
    )
    run.create()
    run.complete("start", output=[1, 2])
    run.start("left")
    run.do(CancelWorkflow(reason="not needed any more"))
    run.report(builders.stopped(run.task_id("right")))
    run.fire("grace")
    run.start("start")
    run.do(PauseWorkflow())
    run.advance(60.0)
    run.do(ResumeWorkflow())
    run.fire("attempt", "start")
    run.report(builders.cancelled(run.task_id("start", 2)))
    run.fire("retry", "start")
    run.report(builders.failed(run.task_id("left")))
    run.complete("start")
    return run


SCENARIOS: Final[dict[str, Callable[[], History]]] = {
    function.__name__: function
    for function in (completed, failed_and_retried, paused_and_cancelled, failed_and_undone, cancelled_and_undone)
}
