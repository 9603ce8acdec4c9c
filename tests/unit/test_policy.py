"""What follows from a state alone: waits, timers, and by when something must happen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.core.clock import SECOND, to_us
from tailrace.core.commands import CancelWorkflow, FlagStall, PauseWorkflow, ResumeWorkflow
from tailrace.core.testing.builders import diamond, pipeline, stage
from tailrace.core.testing.history import History
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.core.workflow.policy import (
    NEVER_US,
    RECHECK_US,
    TIMER_SLACK_US,
    Timer,
    expectation,
    retry_delay_us,
    timers,
)


def expected(run: History) -> int | None:
    """By when something must happen."""
    return expectation(run.pipeline, run.state)


def limited() -> History:
    """A run of one stage with all limits: 20 s to start, 60 s to run, 5 s until somebody asks."""
    only = stage("only", start_timeout_seconds=20, timeout_seconds=60, expect_start_seconds=5)
    run = History(pipeline(only))
    run.create()
    return run


def test_waits_grow_up_to_the_maximum() -> None:
    """By the factor, from the first failure on, with less than a tenth on top."""
    policy = RetryPolicy(max_attempts=10, backoff_seconds=2, factor=3, max_backoff_seconds=30)
    for tries, seconds in ((1, 2), (2, 6), (3, 18), (4, 30), (9, 30)):
        assert to_us(seconds) <= retry_delay_us(policy, tries, "w:s:1") <= to_us(seconds * 1.1)


def test_runs_that_failed_together_do_not_come_back_together() -> None:
    """The jitter belongs to the task, so the same history gives the same wait."""
    policy = RetryPolicy(backoff_seconds=10)
    waits = [retry_delay_us(policy, 1, f"run-{n}:s:1") for n in range(100)]
    assert waits == [retry_delay_us(policy, 1, f"run-{n}:s:1") for n in range(100)]
    assert len(set(waits)) > 80


@given(
    st.integers(1, 100),
    st.floats(0, 86400),
    st.floats(1, 100),
    st.floats(0, 86400),
    st.text(max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_every_allowed_policy_gives_a_wait(
    tries: int, backoff: float, factor: float, maximum: float, seed: str
) -> None:
    """Also the most extreme one: never below zero, never over the maximum and its jitter."""
    policy = RetryPolicy(max_attempts=100, backoff_seconds=backoff, factor=factor, max_backoff_seconds=maximum)
    assert 0 <= retry_delay_us(policy, tries, seed) <= to_us(maximum * 1.1)


def test_a_timer_is_named_after_what_it_is_for() -> None:
    """And read back from its name."""
    timer = Timer(workflow_id="run-1", kind="attempt", stage="a_b-c", attempt=12)
    assert str(timer) == "run-1|attempt|a_b-c|12"
    assert Timer.parse(str(timer)) == timer
    for text in ("", "a|b|c", "a|b|c|d", "a|b|c|1|2"):
        with pytest.raises(ValueError, match=r"unpack|invalid literal"):
            Timer.parse(text)


def test_the_timer_for_the_start_gives_way_to_that_for_the_attempt() -> None:
    """The time to start counts from the dispatch, the time to run from the start."""
    run = limited()
    dispatched_at = run.now
    assert timers(None) == {}
    assert timers(run.state) == {"run-1|start|only|1": dispatched_at + 20 * SECOND}
    assert expected(run) == dispatched_at + 5 * SECOND
    run.advance(12)
    run.start("only")
    assert timers(run.state) == {"run-1|attempt|only|1": run.now + 60 * SECOND}
    assert expected(run) == run.now + 60 * SECOND + TIMER_SLACK_US


def test_a_waiting_retry_has_a_timer() -> None:
    """And nothing else is expected before it."""
    run = limited()
    run.fail("only")
    retry_at = run.stages["only"].retry_at
    assert retry_at is not None
    assert run.timers == {("retry", "only"): retry_at}
    assert expected(run) == retry_at + TIMER_SLACK_US


def test_the_earliest_of_several_stages_counts() -> None:
    """What comes first is asked about first."""
    run = History(diamond())
    run.create()
    run.complete("start")
    run.start("left")
    assert set(run.timers) == {("attempt", "left")}
    assert expected(run) == run.task("right").dispatched_at + 5 * SECOND
    run.start("right")
    assert expected(run) == run.task("left").started_at + 600 * SECOND + TIMER_SLACK_US  # type: ignore[operator]  # it started


def test_a_stage_without_limits_may_take_for_ever() -> None:
    """Once it was started, nothing has to happen."""
    run = History(pipeline(stage("only", timeout_seconds=None)))
    run.create()
    assert run.timers == {}
    run.start("only")
    assert run.timers == {}
    assert expected(run) == NEVER_US


def test_a_paused_run_has_no_timers_and_no_expectation() -> None:
    """Its clocks stand still, and go on where they stood."""
    run = limited()
    due_at = run.timers["start", "only"]
    run.advance(3)
    run.do(PauseWorkflow())
    assert run.timers == {}
    assert expected(run) == NEVER_US
    run.advance(1000)
    run.do(ResumeWorkflow())
    assert run.timers == {("start", "only"): due_at + 1000 * SECOND}


def test_an_ended_run_has_nothing_to_come() -> None:
    """No timers, and nothing that is expected."""
    run = limited()
    run.do(CancelWorkflow())
    assert run.timers == {}
    assert expected(run) is None


def test_a_standing_stall_is_looked_at_again() -> None:
    """Until the run moves."""
    run = limited()
    run.advance(6)
    run.do(FlagStall(cause="no-worker", hop="tasks", summary="nobody is there"))
    assert expected(run) == run.now + RECHECK_US
    run.start("only")
    assert expected(run) == run.now + 60 * SECOND + TIMER_SLACK_US
