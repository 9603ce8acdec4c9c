"""What a decision means for streams and timers, where several decisions go into one append."""

from __future__ import annotations

from tailrace.core.commands import ApplyReport, CancelWorkflow, Command
from tailrace.core.engine.plan import plan
from tailrace.core.ids import trace_id_of
from tailrace.core.store.port import Append
from tailrace.core.testing.builders import TRACEPARENT, completed, failed, line, pipeline, poison, stage
from tailrace.core.testing.history import History
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.core.workflow.history import DecidedEvent


def planned(run: History, *commands: Command, reported: tuple[str, ...] = ()) -> Append:
    """Several decisions on a run, as one append."""
    before, position = run.state, len(run.records)
    for command in commands:
        run.do(command)
    decided = [
        DecidedEvent(event=record.event, at=record.at, command=record.command) for record in run.records[position:]
    ]
    parents = [TRACEPARENT] * len(decided)
    return plan(run.pipeline, before, run.state, decided, traceparents=parents, reported=reported)


def test_a_task_that_ends_with_the_append_that_began_it_is_never_sent() -> None:
    """One report dispatches the next stage, the one behind it fails the run."""
    run = History(pipeline(stage("a"), stage("bad"), stage("b", "a")))
    run.create()
    append = planned(
        run, ApplyReport(report=completed("run-1:a:1")), ApplyReport(report=failed("run-1:bad:1", retryable=False))
    )
    assert run.state.status == "failed"
    assert append.dispatches == []
    assert {closing.task_id for closing in append.closings} == {"run-1:a:1", "run-1:bad:1"}
    assert append.expect_at is None


def test_two_attempts_in_one_append_leave_the_second() -> None:
    """The first is closed by its report, the second is dispatched."""
    once_more = RetryPolicy(max_attempts=2, backoff_seconds=0)
    run = History(pipeline(stage("only", retry=once_more), stage("other")))
    run.create()
    first = planned(run, ApplyReport(report=failed("run-1:only:1")), reported=("run-1:only:1",))
    assert [(closing.task_id, closing.reported) for closing in first.closings] == [("run-1:only:1", True)]
    assert list(first.timers_set) == ["run-1|retry|only|1"]
    run.fire("retry", "only")
    append = planned(run, CancelWorkflow())
    closed = {closing.task_id: closing.reported for closing in append.closings}
    assert closed == {"run-1:only:2": False, "run-1:other:1": False}


def test_a_task_knows_its_way_back() -> None:
    """Its trace is that of the run, its inputs are named by stage and attempt, and its stream by the run's priority."""
    run = History(line("a", "b", "c"))
    run.create(priority="critical")
    run.fail("a")
    run.fire("retry", "a")
    append = planned(run, ApplyReport(report=completed("run-1:a:2", {"n": 1})), reported=("run-1:a:2",))
    (dispatch,) = append.dispatches
    assert dispatch.urgent
    assert dispatch.message.inputs == (("a", 2),)
    assert dispatch.traceparent != TRACEPARENT
    assert trace_id_of(dispatch.traceparent) == trace_id_of(TRACEPARENT)
    assert list(append.outputs) == ["a:2"]
    assert append.created is None


def test_poison_closes_its_task_as_a_report_does() -> None:
    """The store removed the entry when it gave the task up."""
    run = History(line("a"))
    run.create()
    append = planned(run, ApplyReport(report=poison("run-1:a:1")), reported=("run-1:a:1",))
    assert [(closing.task_id, closing.reported) for closing in append.closings] == [("run-1:a:1", True)]
