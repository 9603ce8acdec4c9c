"""What holds for every run, whatever happens to it, in whatever order: a machine whose rules are all that may happen."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.events import Failure
from tailrace.core.workflow.definition import Pipeline
from tests.property.lives import AGENTS, VIEWS, WORKERS, Lives
from tests.property.runs import pipelines

which = st.integers(0, 7)
views = st.integers(0, VIEWS - 1)
agents = st.sampled_from(AGENTS)
workers = st.sampled_from(WORKERS)
FAILURE = Failure(reason="handler-error", message="it failed", retryable=True)
HOPELESS = Failure(reason="no-credit", message="pay first", retryable=False)


class AnyLife(RuleBasedStateMachine):
    """Commands, reports, timers and faults, on a few runs of a random pipeline."""

    #: What happened in all lives together.
    happened: ClassVar[Counter[str]] = Counter()
    lives: Lives | None = None

    @property
    def life(self) -> Lives:
        """What the rules act on."""
        assert self.lives is not None
        return self.lives

    @initialize(pipeline=pipelines(), priority=st.sampled_from(("low", "high")))
    def begin(self, pipeline: Pipeline, priority: str) -> None:
        self.lives = Lives(pipeline)
        self.lives.create(1, priority)

    def teardown(self) -> None:
        if self.lives is not None:
            type(self).happened.update(self.lives.happened)
            self.lives.close()

    # People

    @rule(number=st.integers(1, 3), priority=st.sampled_from(("low", "high")))
    def create(self, number: int, priority: str) -> None:
        self.life.create(number, priority)

    @rule(which=which, command=st.sampled_from((PauseWorkflow(), ResumeWorkflow(), ResumeWorkflow())))
    def pause_or_resume(self, which: int, command: PauseWorkflow | ResumeWorkflow) -> None:
        self.life.ask(which, command)

    @rule(which=which, seconds=st.sampled_from((1.0, 30.0, 1000.0)), view=views)
    def pause_for(self, which: int, seconds: float, view: int) -> None:
        """What became due meanwhile is looked at right after it."""
        self.life.ask(which, PauseWorkflow())
        self.life.pass_time(seconds)
        self.life.ask(which, ResumeWorkflow())
        self.life.fire(view)

    @rule(which=which)
    def cancel(self, which: int) -> None:
        if which < 3:
            self.life.ask(which, CancelWorkflow())

    @rule(which=which, stage=st.none() | st.integers(0, 4))
    def retry(self, which: int, stage: int | None) -> None:
        self.life.retry(which, stage)

    @rule(which=which, cause=st.sampled_from(("no-worker", "overdue")))
    def flag(self, which: int, cause: str) -> None:
        self.life.flag(which, cause)

    @rule(which=which)
    def redispatch(self, which: int) -> None:
        self.life.redispatch(which)

    @rule(which=which, behind=st.sampled_from((0, 0, 0, 1, 3)))
    def expire(self, which: int, behind: int) -> None:
        self.life.expire(which, behind)

    @rule(which=which, stage=st.none() | st.integers(0, 4))
    def retry_what_is_forgotten(self, which: int, stage: int | None) -> None:
        """A run comes back out of the archive; without this rule few of those that are forgotten would."""
        self.life.expire(which, 0)
        self.life.retry(which, stage)

    # Workers

    @rule(agent=agents, name=workers, free=st.integers(1, 3))
    def take(self, agent: str, name: str, free: int) -> None:
        self.life.take(agent, name, free)

    @rule(name=workers)
    def take_all(self, name: str) -> None:
        for agent in AGENTS:
            self.life.take(agent, name, 10)

    @rule(agent=agents, name=workers, free=st.integers(0, 2))
    def claim(self, agent: str, name: str, free: int) -> None:
        self.life.claim(agent, name, free)

    @rule(agent=agents, name=workers)
    def renew(self, agent: str, name: str) -> None:
        self.life.renew(agent, name)

    @precondition(lambda self: self.life.held)
    @rule(which=which)
    def release(self, which: int) -> None:
        self.life.release(which)

    @precondition(lambda self: self.life.held)
    @rule(which=which, kind=st.sampled_from(("started", "progressed")), fraction=st.floats(0, 1))
    def go_on(self, which: int, kind: str, fraction: float) -> None:
        self.life.say(which, kind, fraction=fraction if kind == "progressed" else 0.0)

    @precondition(lambda self: self.life.held)
    @rule(which=which, size=st.sampled_from((0, 0, 300, 700, 1100)))
    def complete(self, which: int, size: int) -> None:
        """Small outputs go with the tasks behind them, until they are too much together."""
        self.life.say(which, "completed", output={"which": which, "more": "x" * size})

    @precondition(lambda self: self.life.held)
    @rule(which=which, error=st.sampled_from((FAILURE, FAILURE, HOPELESS)))
    def fail(self, which: int, error: Failure) -> None:
        self.life.say(which, "failed", error=error)

    @precondition(lambda self: self.life.held)
    @rule(which=which)
    def give_up(self, which: int) -> None:
        self.life.say(which, "cancelled")

    @rule(name=workers, rounds=st.integers(1, 4), view=views, output=st.sampled_from(("well", "x" * 600, "x" * 1100)))
    def go_well(self, name: str, rounds: int, view: int, output: str) -> None:
        """For a while everything is as it should be: without that few lives would come to their end."""
        for _ in range(rounds):
            for agent in AGENTS:
                self.life.take(agent, name, 10)
            while self.life.held:
                self.life.say(0, "completed", output=output)
            self.life.apply(view, 100, reverse=False)
            self.life.check()

    @rule(outcomes=st.lists(st.sampled_from((None, None, FAILURE, HOPELESS)), min_size=2, max_size=4), view=views)
    def end_together(self, outcomes: list[Failure | None], view: int) -> None:
        """Several tasks end, and are decided as one batch: the end of one may close what that of another one dispatched."""
        self.take_all("w1")
        for error in outcomes:
            self.life.say(0, "completed" if error is None else "failed", error=error)
        self.life.apply(view, 100, reverse=False)

    @precondition(lambda self: self.life.said)
    @rule(which=which)
    def say_again(self, which: int) -> None:
        self.life.say_again(which)

    @rule(
        which=which,
        task=st.integers(0, 30),
        kind=st.sampled_from(
            ("started", "progressed", "completed", "failed", "cancelled", "poison", "lost", "invented")
        ),
    )
    def stray(self, which: int, task: int, kind: str) -> None:
        self.life.stray(which, kind, task, error=FAILURE if kind in {"failed", "poison"} else None)

    @rule(which=which)
    def drop(self, which: int) -> None:
        self.life.drop(which)

    # The engine

    @precondition(lambda self: self.life.partition.reports.entries)
    @rule(view=views, count=st.integers(1, 6), reverse=st.booleans())
    def apply(self, view: int, count: int, reverse: bool) -> None:
        self.life.apply(view, count, reverse=reverse)

    @precondition(lambda self: self.life.partition.reports.entries)
    @rule(view=views)
    def apply_all(self, view: int) -> None:
        self.life.apply(view, 100, reverse=False)

    @rule(view=views)
    def drain(self, view: int) -> None:
        self.life.drain(view)

    @precondition(lambda self: self.life.batch)
    @rule(view=views)
    def apply_again(self, view: int) -> None:
        self.life.apply_again(view)

    @precondition(lambda self: self.life.partition.timers)
    @rule(view=views, wait=st.booleans())
    def fire(self, view: int, wait: bool) -> None:
        if wait:
            self.life.pass_to_next_timer()
        self.life.fire(view)

    @precondition(lambda self: self.life.fired)
    @rule(view=views, which=which)
    def fire_again(self, view: int, which: int) -> None:
        self.life.fire_again(view, which)

    @rule(view=views)
    def forget(self, view: int) -> None:
        self.life.forget(view)

    @rule(seconds=st.sampled_from((0.001, 1.0, 3.5, 3.5, 30.0, 1000.0, -5.0)))
    def pass_time(self, seconds: float) -> None:
        self.life.pass_time(seconds)

    @invariant()
    def everything_holds(self) -> None:
        if self.lives is not None:
            self.lives.check()


@pytest.mark.failure(18)
def test_any_life_keeps_what_is_promised() -> None:
    """Versions without holes, one open task per stage, one outcome per stage and round, the log folds to what is stored, and
    its commands lead to the same bytes; the lives had something of everything that may come of it.
    """
    AnyLife.happened.clear()
    run_state_machine_as_test(
        AnyLife,
        settings=settings(
            max_examples=300,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
    wanted = {
        *("WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled", "WorkflowPaused", "WorkflowResumed"),
        *("WorkflowRetried", "TaskStarted", "TaskFailed", "TaskRedispatched", "StageCompleted", "ReportIgnored"),
        *("given", "not given", "expired"),
    }
    assert wanted <= AnyLife.happened.keys(), AnyLife.happened
