"""Each rule of the watchdog, on facts alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.core.clock import SECOND, to_us
from tailrace.core.commands import ApplyReport, CancelWorkflow, Command, PauseWorkflow
from tailrace.core.store.port import OpenEntry, ParkedEntry, PartitionFacts, Queue, WorkerBeat
from tailrace.core.testing import builders
from tailrace.core.testing.clock import START_US
from tailrace.core.workflow.definition import Pipeline, RetryPolicy
from tailrace.core.workflow.history import step
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.diagnosis import CAUSES
from tailrace.projections.watchdog.facts import AgentFacts, Facts, WaitingReports
from tailrace.projections.watchdog.findings import Verdict
from tailrace.projections.watchdog.rules import judge

RUN = "run-1"
TASK = f"{RUN}:build:1"
PIPELINE = builders.pipeline(builders.stage("build", agent="builder", timeout_seconds=60.0))


def folded(*commands: tuple[float, Command], pipeline: Pipeline = PIPELINE) -> WorkflowState:
    """The run after commands given at seconds from its start."""
    state: WorkflowState | None = None
    for at, command in ((0.0, builders.create_workflow(pipeline, RUN)), *commands):
        state, _ = step(pipeline, state, command, now=START_US + to_us(at), command_id=f"c{at}", actor="test")
    assert state is not None
    return state


def beat(age_seconds: float = 0.5, *, now: int, name: str = "w1", **fields: Any) -> WorkerBeat:
    """A worker that beat so long ago."""
    values: dict[str, Any] = {"build": "b1", "slots": 2, "in_flight": 0, "store_id": "store", **fields}
    return WorkerBeat(agent="builder", name=name, at=now - to_us(age_seconds), pid=7, host="here", **values)


class World:
    """A run with its surroundings: all well, until a test changes something. Times in seconds from the run's start."""

    def __init__(self, *commands: tuple[float, Command], at: float = 10.0, pipeline: Pipeline = PIPELINE) -> None:
        self.now = START_US + to_us(at)
        self.state = folded(*commands, pipeline=pipeline)
        self.pipeline = pipeline
        self.queue = Queue(agent="builder", partition=0, has_group=True, backlog=1, pending=0, oldest_age_us=0)
        self.workers: list[WorkerBeat] = [beat(now=self.now)]
        self.orchestration = PartitionFacts(
            partition=0,
            reports=0,
            oldest_report_age_us=0,
            owner="o1",
            owner_until=self.now + SECOND,
            overdue_timers=0,
            parked=0,
        )
        self.reports = WaitingReports(places={}, complete=True, still_us=0)
        self.entry: OpenEntry | None = OpenEntry(task_id=TASK, agent="builder", entry_id="1-0", state="queued", ahead=3)
        self.still_us = 0
        self.fullness = 0.1
        self.rejected: tuple[ParkedEntry, ...] | None = ()
        self.told = 0
        self.told_us = 0

    def delivered(self, *, idle: float = 0.5, deliveries: int = 1, worker: str = "w1") -> World:
        """The task is in a worker's hands."""
        self.entry = OpenEntry(
            task_id=TASK,
            agent="builder",
            entry_id="1-0",
            state="delivered",
            worker=worker,
            idle_us=to_us(idle),
            deliveries=deliveries,
        )
        self.queue = replace(self.queue, backlog=0, pending=1, pending_by_worker={worker: 1})
        return self

    def gone(self) -> World:
        """The task's entry is not there."""
        self.entry = OpenEntry(task_id=TASK, agent="builder", entry_id="1-0", state="gone")
        return self

    def no_owner(self) -> World:
        """The orchestrator's lease ran out."""
        self.orchestration = replace(self.orchestration, owner_until=self.now - SECOND)
        return self

    def waiting_reports(self, age_seconds: float, *, own: bool = True, still: float = 0.0) -> World:
        """Reports wait, among them one of this run."""
        self.orchestration = replace(self.orchestration, reports=4, oldest_report_age_us=to_us(age_seconds))
        self.reports = WaitingReports(places={TASK: 2} if own else {}, complete=True, still_us=to_us(still))
        return self

    def facts(self) -> Facts:
        """All of it."""
        agent = AgentFacts(
            agent="builder",
            queue=self.queue,
            workers=tuple(self.workers),
            store_id="store",
            now=self.now,
            told=self.told,
            told_us=self.told_us,
        )
        return Facts(
            now=self.now,
            state=self.state,
            partition=0,
            pipeline=self.pipeline,
            agents={"builder": agent},
            orchestration=self.orchestration,
            reports=self.reports,
            entries={} if self.entry is None else {TASK: self.entry},
            still_us={TASK: self.still_us},
            fullness=self.fullness,
            rejected=self.rejected,
        )

    def judged(self) -> Verdict:
        """What the rules say."""
        return judge(self.facts())


def started(at: float = 1.0, *, delivery: int = 1) -> tuple[float, Command]:
    """The worker's word that it began."""
    return at, ApplyReport(report=builders.started(TASK, delivery=delivery))


def failed(at: float, reason: str = "handler-error", *, attempt: int = 1) -> tuple[float, Command]:
    """An attempt that failed."""
    return at, ApplyReport(report=builders.failed(f"{RUN}:build:{attempt}", reason=reason))


def cause(world: World) -> tuple[str | None, bool, bool]:
    """Cause, whether it is recorded, and whether another look is needed."""
    verdict = world.judged()
    return verdict.diagnosis.cause, verdict.is_stall, verdict.watching


def test_no_worker() -> None:
    """A backlog and nobody who beats: recorded, unless somebody fell silent only just now."""
    world = World()
    world.workers = []
    assert cause(world) == ("no-worker", True, False)
    diagnosis = world.judged().diagnosis
    assert (diagnosis.hop, diagnosis.suggestion, diagnosis.healthy) == ("delivery", "tailrace worker builder", False)
    assert diagnosis.evidence["backlog"] == 1
    world.workers = [beat(4.0, now=world.now)]
    assert cause(world) == ("no-worker", False, False)
    world.workers = [beat(6.0, now=world.now)]
    assert cause(world) == ("no-worker", True, False)


@pytest.mark.failure(25)
def test_no_group() -> None:
    """Workers that beat and never joined take nothing."""
    world = World()
    world.queue = replace(world.queue, has_group=False)
    assert cause(world) == ("no-worker", True, False)
    assert "no group" in world.judged().diagnosis.summary


def test_workers_hung() -> None:
    """Slots are free and the queue stands, seen at two looks; one look proves nothing."""
    world = World()
    assert cause(world) == (None, False, True)
    world.still_us = SECOND
    assert cause(world) == ("workers-hung", True, False)
    assert world.judged().diagnosis.suggestion.startswith("kill -TERM 7  # on here")


def test_who_has_not_beaten_since_the_first_look_may_have_been_stopped() -> None:
    """It seems to live for another while; that it hangs is said of one that beats and takes nothing meanwhile."""
    world = World()
    world.still_us = to_us(1.0)
    world.workers = [beat(1.5, now=world.now)]
    assert cause(world) == (None, False, True)
    world.workers.append(beat(0.5, now=world.now, name="w2", slots=1, in_flight=1))
    assert cause(world) == (None, False, True)
    world.workers.append(beat(0.5, now=world.now, name="w3"))
    assert cause(world) == ("workers-hung", True, False)


def test_a_worker_that_took_a_task_and_does_not_begin_hangs() -> None:
    """Its lease thread beats, its event loop does not turn."""
    world = World().delivered()
    assert cause(world) == (None, False, True)
    world.still_us = SECOND
    assert cause(world) == ("workers-hung", True, False)


def test_backlog() -> None:
    """All are busy: the place in the queue, and nothing to record."""
    world = World()
    world.workers = [beat(now=world.now, in_flight=2)]
    world.still_us = 5 * SECOND
    assert cause(world) == ("backlog", False, False)
    diagnosis = world.judged().diagnosis
    assert diagnosis.healthy
    assert "3 tasks before it" in diagnosis.summary
    world.workers = [beat(now=world.now, slots=0, in_flight=1)]
    assert "drain" in world.judged().diagnosis.summary


@pytest.mark.failure(27)
@pytest.mark.failure(28)
def test_identity_mismatch() -> None:
    """The only live workers mean another store; a second build is only mentioned."""
    world = World()
    world.workers = [beat(now=world.now, store_id="another")]
    assert cause(world) == ("identity-mismatch", True, False)
    world.workers = [beat(now=world.now), beat(now=world.now, name="w2", build="b2")]
    world.still_us = SECOND
    diagnosis = world.judged().diagnosis
    assert diagnosis.cause == "workers-hung"
    assert [found.cause for found in diagnosis.secondary] == ["identity-mismatch"]


def test_a_task_that_is_worked_on_is_healthy() -> None:
    """However long it has been quiet, within the stage's time."""
    diagnosis = World(started(), at=60.0).delivered().judged().diagnosis
    assert (diagnosis.cause, diagnosis.healthy, diagnosis.hop) == (None, True, "")
    assert "w1 works on stage build since 59 s" in diagnosis.summary


def test_overdue() -> None:
    """Over the stage's time by more than a timer's slack, in live hands."""
    assert cause(World(started(), at=65.9).delivered()) == (None, False, False)
    world = World(started(), at=66.1).delivered()
    assert cause(world) == ("overdue", True, False)
    assert [found.cause for found in world.judged().diagnosis.secondary] == ["timer-overdue"]


def test_worker_lost() -> None:
    """Recorded only when the lease is long over and nobody takes the task."""
    world = World(started(), at=20.0).delivered(idle=4.0)
    world.workers = [beat(4.0, now=world.now)]
    assert cause(world) == (None, False, False)
    world.delivered(idle=6.0)
    assert cause(world) == ("worker-lost", True, False)
    world.workers = [beat(now=world.now, name="w2", in_flight=2)]
    assert cause(world) == ("backlog", False, False)
    world.workers = [beat(now=world.now, name="w2")]
    assert cause(world) == (None, False, True)
    world.still_us = SECOND
    assert cause(world) == ("worker-lost", True, False)


def test_a_task_that_was_handed_back_waits_like_any_other() -> None:
    """It is pending under a name of the store's own."""
    world = World().delivered(worker="~released", idle=86400.0, deliveries=0)
    world.workers = []
    assert cause(world) == ("no-worker", True, False)
    world.workers = [beat(now=world.now, in_flight=2)]
    assert cause(world) == ("backlog", False, False)


def test_crash_loop() -> None:
    """Delivered again and again, unless the latest delivery has long gone well."""
    assert cause(World(started(delivery=3), at=10.0).delivered(deliveries=3)) == ("crash-loop", True, False)
    assert cause(World(started(delivery=3), at=40.0).delivered(deliveries=3)) == (None, False, False)


def test_orchestrator_behind() -> None:
    """Reports wait longer than a take-over takes: without an owner at once, with one when the oldest stays the same."""
    assert cause(World().gone().waiting_reports(2.0)) == (None, False, False)
    assert cause(World().gone().waiting_reports(2.0).no_owner()) == ("orchestrator-behind", False, False)
    world = World().gone().waiting_reports(6.0).no_owner()
    assert cause(world) == ("orchestrator-behind", True, False)
    assert world.judged().diagnosis.suggestion == "tailrace orchestrator"
    assert cause(World().gone().waiting_reports(6.0)) == (None, False, True)
    assert cause(World().gone().waiting_reports(6.0, still=1.0)) == ("orchestrator-behind", True, False)


def test_a_gone_entry_without_a_report() -> None:
    """Never taken, acknowledged without a report, or its report was refused."""
    assert cause(World().gone()) == (None, False, True)
    for world, expected in (
        (World().gone(), "not-dispatched"),
        (World(started()).gone(), "silent-ack"),
        (World(started()).gone(), "report-rejected"),
    ):
        world.still_us = SECOND
        if expected == "report-rejected":
            world.rejected = (parked(TASK),)
        assert cause(world) == (expected, True, False)


def parked(task_id: str, *, at: float = 5.0) -> ParkedEntry:
    """A report of the run that could not be applied."""
    return ParkedEntry(workflow_id=RUN, task_id=task_id, reason="it holds a NUL", at=START_US + to_us(at))


def test_only_a_refused_report_on_the_task_itself_explains_that_it_is_gone() -> None:
    """Not one on another task or from before, nor those of other runs, however many are parked; one without a name may be it."""
    for rejected, expected in (
        ((parked(f"{RUN}:other:1"),), "not-dispatched"),
        ((parked(TASK, at=-1.0),), "not-dispatched"),
        ((parked(""),), "report-rejected"),
        ((parked(f"{RUN}:other:1"), parked(TASK)), "report-rejected"),
        (None, None),
    ):
        world = World().gone()
        world.still_us = SECOND
        world.orchestration = replace(world.orchestration, parked=7)
        world.rejected = rejected
        assert world.judged().diagnosis.cause == expected
    world.rejected = (parked(TASK),)
    assert "it holds a NUL" in world.judged().diagnosis.summary
    assert world.judged().diagnosis.evidence["reason"] == "it holds a NUL"


def test_slots_that_are_held_by_what_was_told_to_stop() -> None:
    """All of them, for longer than it takes to listen; one slot that works makes it a backlog."""
    world = World()
    world.workers = [beat(now=world.now, slots=2, in_flight=2)]
    world.told, world.told_us = 2, to_us(6)
    assert cause(world) == ("workers-hung", True, False)
    assert world.judged().diagnosis.suggestion.startswith("kill -TERM 7")
    world.told_us = to_us(4)
    assert cause(world) == ("backlog", False, False)
    world.told, world.told_us = 1, to_us(60)
    assert cause(world) == ("backlog", False, False)


def test_an_acknowledged_entry() -> None:
    """Named at once, whether or not the word of its start came; recorded when its holder does not find it either."""
    for state in (None, started()):
        world = World() if state is None else World(state)
        assert world.entry is not None
        world.entry = replace(world.entry, state="acknowledged", ahead=0)
        assert cause(world) == ("silent-ack", False, False)
        world.still_us = 2 * SECOND
        assert cause(world) == ("silent-ack", False, False)
        world.still_us = 5 * SECOND
        assert cause(world) == ("silent-ack", True, False)


def test_nothing_open_and_nothing_planned() -> None:
    """Can't be, so it is said at once."""
    world = World()
    stages = {"build": replace(world.state.stages["build"], status="pending", task=None)}
    world.state = replace(world.state, stages=stages)
    assert cause(world) == ("not-dispatched", True, False)


def test_waiting_for_the_next_attempt() -> None:
    """As planned; then its timer is late, by its own fault or that of the orchestrator."""
    assert cause(World(started(), failed(2.0), at=2.5)) == (None, False, False)
    assert cause(World(started(), failed(2.0), at=10.0)) == ("timer-overdue", True, False)
    assert cause(World(started(), failed(2.0), at=10.0).no_owner()) == ("orchestrator-behind", True, False)


@pytest.mark.failure(31)
def test_dependency_open() -> None:
    """The stage waits because a service is down; elsewhere an open breaker is only mentioned."""
    assert cause(World(started(), failed(2.0, "dependency-open"), at=2.5)) == ("dependency-open", True, False)
    world = World(started(), at=70.0).delivered()
    world.workers = [beat(now=world.now, breakers={"model-api": "open"})]
    assert [found.cause for found in world.judged().diagnosis.secondary] == ["dependency-open", "timer-overdue"]


def test_store_full() -> None:
    """It explains what stands; where nothing stands it is only mentioned."""
    world = World()
    world.fullness = 0.99
    world.workers = []
    assert cause(world) == ("store-full", False, False)
    assert world.judged().scope == "store"
    healthy = World(started()).delivered()
    healthy.fullness = 0.99
    assert healthy.judged().diagnosis.cause is None
    assert [found.cause for found in healthy.judged().diagnosis.secondary] == ["store-full"]


def test_paused() -> None:
    """A person must act; nothing is recorded."""
    world = World(started(), (2.0, PauseWorkflow()))
    assert cause(world) == ("paused", False, False)
    assert world.judged().diagnosis.suggestion == f"tailrace resume {RUN}"


ONE_TRY = builders.pipeline(builders.stage("build", agent="builder", retry=RetryPolicy(max_attempts=1)))


@pytest.mark.parametrize(
    ("commands", "expected", "words"),
    [
        ([started(), (2.0, ApplyReport(report=builders.completed(TASK)))], None, "completed"),
        ([started(), failed(2.0)], "retry-budget", "failed"),
        ([(2.0, ApplyReport(report=builders.poison(TASK)))], "poison", "failed"),
        ([(2.0, CancelWorkflow())], None, "cancelled"),
        ([(2.0, ApplyReport(report=builders.failed(TASK, reason="bad", retryable=False)))], None, "stage build: bad"),
    ],
)
def test_ended_runs(commands: list[tuple[float, Command]], expected: str | None, words: str) -> None:
    """They say how they ended; a failed one says why, and how to try again."""
    verdict = World(*commands, pipeline=ONE_TRY).judged()
    assert verdict.diagnosis.cause == expected
    assert words in verdict.diagnosis.summary
    assert not verdict.is_stall
    assert verdict.diagnosis.healthy is ("failed" not in words and "bad" not in words)


UNDONE = builders.pipeline(
    builders.undone("build", agent="builder", undo="undoer"), builders.stage("ship", "build", agent="builder")
)


def built(*then: tuple[float, Command], at: float = 10.0) -> World:
    """A run whose first stage is done, and whose second one has begun; it has no entry that would be asked about."""
    begun = ApplyReport(report=builders.started(f"{RUN}:ship:1"))
    world = World((1.0, ApplyReport(report=builders.completed(TASK))), (2.0, begun), *then, at=at, pipeline=UNDONE)
    world.entry = None
    return world


def test_a_run_that_waits_for_a_handler_says_for_whom() -> None:
    """Until the grace is over that is as planned; then its timer is late."""
    world = built((3.0, CancelWorkflow(reason="too dear")))
    assert cause(world) == (None, False, False)
    assert "cancelled (too dear); what its stages did is undone before it ends: 0 undone, 1 left" in _summary(world)
    assert f"told to stop ({RUN}:ship:1), at most for another 3.0 s" in _summary(world)
    late = built((3.0, CancelWorkflow()), at=20.0)
    assert cause(late) == ("timer-overdue", True, False)
    assert "the grace timer is 7.0 s late" in _summary(late)


def test_a_task_that_undoes_is_judged_by_its_own_agent() -> None:
    """Nobody plays it: that is why the run does not end."""
    world = built((3.0, ApplyReport(report=builders.failed(f"{RUN}:ship:1", retryable=False))))
    facts = world.facts()
    queue = replace(world.queue, agent="undoer")
    undoer = AgentFacts(agent="undoer", queue=queue, workers=(), store_id="store", now=world.now)
    verdict = judge(replace(facts, agents={**facts.agents, "undoer": undoer}))
    assert (verdict.diagnosis.cause, verdict.is_stall, verdict.scope) == ("no-worker", True, "agent undoer")
    assert verdict.diagnosis.suggestion == "tailrace worker undoer"


def test_what_could_not_be_undone_is_said_of_an_ended_run() -> None:
    """By name."""
    world = built(
        (3.0, ApplyReport(report=builders.failed(f"{RUN}:ship:1", retryable=False))),
        (4.0, ApplyReport(report=builders.failed(f"{RUN}:build:2", retryable=False))),
    )
    assert "what stages build did could not be undone" in _summary(world)


def _summary(world: World) -> str:
    return world.judged().diagnosis.summary


def test_what_could_not_be_asked_is_not_guessed() -> None:
    """Without the workers nobody is called missing."""
    facts = replace(World().facts(), agents={"builder": None}, unreachable=("workers of agent builder",))
    verdict = judge(facts)
    assert (verdict.diagnosis.cause, verdict.diagnosis.healthy, verdict.is_stall) == (None, False, False)
    assert verdict.diagnosis.unreachable == ("workers of agent builder",)


def test_every_cause_has_a_hop() -> None:
    """And the order in which they explain each other is fixed."""
    assert all(cause.hop for cause in CAUSES.values())
    assert list(CAUSES).index("orchestrator-behind") < list(CAUSES).index("no-worker") < list(CAUSES).index("backlog")
