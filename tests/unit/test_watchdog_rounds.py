"""Rounds of the watchdog, on the store in memory and a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.codec import decode_event
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.errors import ConfigurationError, StoreUnavailable
from tailrace.core.events import Event, TaskRedispatched, WorkflowStalled
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.store import MemoryStore
from tailrace.core.store.port import Ownership, Queue, WorkerBeat
from tailrace.core.testing import builders
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog import Watchdog, WatchdogOptions, check_store, diagnose, diagnose_open
from tailrace.projections.watchdog.repairs import REPAIRS, Repair, parse_repairs

PIPELINE = builders.pipeline(builders.stage("build", agent="builder"))
OPTIONS = WatchdogOptions(settle_seconds=0.0, repairs=frozenset())


class World:
    """A store of one partition, with watchdogs and runs."""

    def __init__(self) -> None:
        self.data = MemoryBackend(partitions=1)
        self.store = self.data.store()
        self.handler = CommandHandler(self.store)

    async def start(self, count: int = 1) -> list[str]:
        """Runs whose tasks nobody takes, each a little younger than the one before."""
        await self.store.put_definition(PIPELINE.definition)
        ids = [f"run-{number}" for number in range(count)]
        for workflow_id in ids:
            await self.handler.create(builders.create_workflow(PIPELINE, workflow_id), actor="test")
        return ids

    async def advance(self, seconds: float, *, beating: Sequence[WorkerBeat] = ()) -> None:
        """Let time pass; the store is polled and workers beat meanwhile."""
        for _ in range(round(seconds * 2)):
            self.data.clock.advance(0.5)
            await self.store.due_timers(0, count=1)
            for beat in beating:
                self.data.beat(beat)

    def watchdog(self, **options: Any) -> Watchdog:
        """A watchdog that judges from its first round on."""
        return Watchdog(self.store, self.handler, replace(OPTIONS, **options))

    async def state(self, workflow_id: str) -> WorkflowState:
        """A run as it is."""
        (state,) = await self.store.load_states([workflow_id])
        assert state is not None
        return state

    async def events(self) -> list[Event]:
        """All events of all runs."""
        return [
            decode_event(entry.type, entry.data).event for entry in await self.store.read_log(0, "0-0", count=10_000)
        ]

    async def lose_entry(self) -> None:
        """Delete the only task's entry behind the engine's back."""
        (stream,) = [stream for stream in self.data.partitions[0].streams.values() if stream.entries]
        stream.delete(next(iter(stream.entries)))

    async def stalls(self) -> list[tuple[str, str]]:
        """Every stall that was recorded: run and cause."""
        found = []
        for entry in await self.store.read_log(0, "0-0", count=10_000):
            event = decode_event(entry.type, entry.data).event
            if isinstance(event, WorkflowStalled):
                found.append((entry.workflow_id, event.cause))
        return found


def idle(name: str = "w1") -> WorkerBeat:
    """A worker with a free slot."""
    return WorkerBeat(
        agent="builder", name=name, at=0, build="b1", pid=7, host="here", slots=1, in_flight=0, store_id=""
    )


async def test_nothing_is_judged_before_its_time() -> None:
    """Neither before a run is overdue, nor while everybody may still be starting."""
    world = World()
    (run,) = await world.start()
    await world.advance(4.5)
    assert await world.watchdog().look() == 0
    await world.advance(1.0)
    assert await world.watchdog(settle_seconds=60.0).look() == 0
    assert await world.watchdog().look() == 1
    assert await world.stalls() == [(run, "no-worker")]


@pytest.mark.hole("H23")
async def test_watchdogs_at_the_same_moment_flag_once() -> None:
    """The version lets one of them through; the other drops what it found."""
    world = World()
    runs = await world.start(5)
    await world.advance(6.0)
    watchdogs = [world.watchdog() for _ in range(3)]
    assert sum(await asyncio.gather(*(watchdog.look() for watchdog in watchdogs))) == 5
    await world.advance(30.0)
    assert sum(await asyncio.gather(*(watchdog.look() for watchdog in watchdogs))) == 0
    assert await world.stalls() == [(run, "no-worker") for run in runs]


@pytest.mark.hole("H23")
async def test_a_fault_of_many_runs_is_one_incident(caplog: pytest.LogCaptureFixture) -> None:
    """A round does a bounded part, the next one goes on; a queue is asked once per round that needs it; the log has one line."""
    caplog.set_level(logging.INFO, "tailrace.projections.watchdog")
    world = World()
    await world.start(250)
    await world.advance(6.0)
    asked = CountingStore(world.data)
    watchdog = Watchdog(asked, world.handler, replace(OPTIONS, runs_per_round=100))
    assert [await watchdog.look() for _ in range(4)] == [100, 100, 50, 0]
    assert asked.queues_asked == 3
    (incident,) = watchdog.incidents.open.values()
    assert (incident.cause, incident.scope, incident.runs) == ("no-worker", "agent builder", 250)
    assert [message for message in caplog.messages if "no-worker" in message] == caplog.messages
    assert len(caplog.messages) == 1
    # One who works: the incident is over once no run showed it for a while; after so many of them that is long.
    await world.advance(3.0, beating=[replace(idle(), in_flight=1)])
    for _ in range(155):
        await world.advance(2.0, beating=[replace(idle(), in_flight=1)])
        await watchdog.look()
    assert watchdog.incidents.open == {}
    assert "is over" in caplog.messages[-1]


class CountingStore(MemoryStore):
    """Counts looks at queues."""

    queues_asked = 0

    async def queues(self, agents: Sequence[str]) -> list[Queue]:
        self.queues_asked += 1
        return await super().queues(agents)


async def test_a_cause_that_changes_is_flagged_again_but_not_at_once() -> None:
    """First nobody is there, then somebody who takes nothing."""
    world = World()
    (run,) = await world.start()
    await world.advance(6.0)
    watchdog = world.watchdog()
    assert await watchdog.look() == 1
    flagged_at = (await world.state(run)).updated_at
    while len(await world.stalls()) < 2:
        await world.advance(0.5, beating=[idle()])
        await watchdog.look()
        assert await world.store.now() - flagged_at < to_us(20)
    assert await world.stalls() == [(run, "no-worker"), (run, "workers-hung")]
    assert (await world.state(run)).updated_at - flagged_at >= to_us(10)


async def test_a_stall_that_has_stood_for_long_is_looked_at_seldom() -> None:
    """So that a new one does not wait for a look at thousands of old ones; what is over is said only after that time."""
    world = World()
    await world.start()
    watchdog = world.watchdog()
    looks = 0
    for _ in range(1200):
        await world.advance(0.5)
        looks += bool(await world.store.overdue(0, count=10))
        await watchdog.look()
        assert len(watchdog.incidents.open) == (looks > 0)
    assert await world.stalls() == [("run-0", "no-worker")]
    assert looks < 15


async def test_what_is_new_does_not_wait_for_thousands_of_known_stalls() -> None:
    """While more is overdue than one round looks at, what is flagged is put off for long; the new one is next."""
    world = World()
    await world.start(300)
    await world.advance(6.0)
    watchdog = world.watchdog(runs_per_round=20)
    while await watchdog.look():
        await world.advance(0.5)
    await world.advance(10.0)
    assert len(await world.store.overdue(0, count=1000)) < 40
    await world.handler.create(builders.create_workflow(PIPELINE, "new"), actor="test")
    for _ in range(14):
        await world.advance(0.5)
        await watchdog.look()
    assert ("new", "no-worker") in await world.stalls()
    assert len(watchdog.incidents.open) == 1


async def test_a_stall_that_nothing_is_expected_of_is_found() -> None:
    """Somebody removed the run's expectation; its task still stands in the queue, among the oldest."""
    world = World()
    (run,) = await world.start()
    del world.data.partitions[0].expectations[run]
    await world.advance(7.0)
    assert await world.watchdog().look() == 1
    assert await world.stalls() == [(run, "no-worker")]
    assert await world.store.unexpected(0, [run]) == []


async def test_a_task_that_is_nowhere_is_looked_for_without_a_worker() -> None:
    """The queue is empty, so the task is not in it: more workers would not help."""
    world = World()
    (run,) = await world.start()
    await world.lose_entry()
    await world.advance(6.0)
    watchdog = world.watchdog()
    assert await watchdog.look() == 0
    await world.advance(2.0)
    assert await watchdog.look() == 1
    assert await world.stalls() == [(run, "not-dispatched")]


async def test_a_refused_report_is_found_before_the_limit_of_its_stage() -> None:
    """The task has begun, so its expectation is minutes away; that its report was parked is enough to look."""
    world = World()
    (run,) = await world.start()
    queue = world.data.queue("builder", "w1")
    await queue.join()
    (delivery,) = await queue.take(1, block_seconds=0)
    task_id = delivery.message.task_id
    await queue.report([(delivery, builders.started(task_id), ""), (delivery, builders.completed(task_id), "")])
    working = PartitionWork(world.store, ownership=await owned(world))
    begun, ended = await world.store.read_reports(0, count=2, block_seconds=0)
    assert await working.apply_reports([begun]) == 1
    assert await world.store.park_report(0, ended.entry_id, "it holds a NUL")
    watchdog = world.watchdog()
    for _ in range(3):
        await world.advance(2.0, beating=[idle()])
        await world.store.acquire(0, "o1", 1)
        await watchdog.look()
    assert await world.stalls() == [(run, "report-rejected")]


async def owned(world: World) -> Ownership:
    """The partition, for an orchestrator."""
    ownership = await world.store.acquire(0, "o1", None)
    assert ownership is not None
    return ownership


async def test_a_backlog_is_looked_at_less_and_less_often_and_never_flagged() -> None:
    """All workers are busy with something else."""
    world = World()
    await world.start()
    watchdog = world.watchdog()
    for _ in range(200):
        await world.advance(0.5, beating=[replace(idle(), in_flight=1)])
        assert await watchdog.look() == 0
    assert await world.stalls() == []
    await world.advance(8.0, beating=[replace(idle(), in_flight=1)])
    assert await world.store.overdue(0, count=10) == []


async def test_a_run_that_cannot_be_read_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and left alone."""
    world = World()
    runs = await world.start(3)
    world.data.partitions[0].runs[runs[0]].state = b"\xc1"
    del world.data.partitions[0].runs[runs[1]]
    await world.advance(6.0)
    watchdog = world.watchdog()
    assert await watchdog.look() == 1
    assert await watchdog.look() == 0
    assert await world.stalls() == [(runs[2], "no-worker")]
    assert sum(runs[1] in message for message in caplog.messages) == 1


class SilentStore(MemoryStore):
    """Does not say who works."""

    async def workers(self, agent: str) -> list[WorkerBeat]:
        raise StoreUnavailable("no answer")


async def test_what_could_not_be_asked_is_said() -> None:
    """A diagnosis names it and concludes nothing from it; a watchdog gives the round up."""
    world = World()
    (run,) = await world.start()
    await world.advance(6.0)
    store = SilentStore(world.data)
    found = await diagnose(store, run)
    assert (found.cause, found.healthy) == (None, False)
    assert found.unreachable[0] == "workers of agent builder"
    with pytest.raises(StoreUnavailable):
        await Watchdog(store, world.handler, OPTIONS).look()
    assert await world.stalls() == []
    assert "failed" in {check.status for check in await check_store(store, timer_look_seconds=0)}


async def test_a_store_in_memory_is_checked() -> None:
    """It keeps nothing, and the check says so."""
    world = World()
    await world.start()
    checks = {check.name: check.status for check in await check_store(world.store, timer_look_seconds=0)}
    assert checks == {
        "store": "ok",
        "durability": "warning",
        "memory": "ok",
        "agent builder": "failed",
        "builds": "ok",
        "partition 0": "failed",
    }


async def test_a_run_whose_dependency_is_down_is_found() -> None:
    """It waits for its next attempt, as planned; that the breaker in its agent is open is enough to look."""
    world = World()
    (run,) = await world.start()
    queue = world.data.queue("builder", "w1")
    await queue.join()
    (delivery,) = await queue.take(1, block_seconds=0)
    report = builders.failed(delivery.message.task_id, reason="dependency-open")
    await queue.report([(delivery, report, "")])
    working = PartitionWork(world.store, ownership=await owned(world))
    assert await working.apply_reports(await world.store.read_reports(0, count=1, block_seconds=0)) == 1
    assert await world.watchdog().look() == 0
    world.data.beat(replace(idle(), breakers={"model-api": "open"}))
    assert await world.watchdog().look() == 1
    assert await world.stalls() == [(run, "dependency-open")]


async def test_a_task_that_is_nowhere_is_sent_again() -> None:
    """With the reason in the log, and no stall; but not for ever: what is lost again and again, somebody removes."""
    world = World()
    (run,) = await world.start()
    watchdog = world.watchdog(repairs=REPAIRS)
    for _ in range(4):
        await world.lose_entry()
        await world.advance(6.0)
        assert await watchdog.look() == 0
        await world.advance(1.0)
        flagged = await watchdog.look()
    sent = [event for event in await world.events() if isinstance(event, TaskRedispatched)]
    assert [event.reason for event in sent] == ["the watchdog found its entry gone from the stream"] * 3
    assert flagged == 1
    assert await world.stalls() == [(run, "not-dispatched")]


@pytest.mark.parametrize("repairs", [REPAIRS, frozenset({"redispatch"})])
async def test_what_a_removed_timer_would_have_done_is_done(repairs: frozenset[Repair]) -> None:
    """The next attempt is dispatched; where that is turned off the run is flagged."""
    world = World()
    (run,) = await world.start()
    queue = world.data.queue("builder", "w1")
    await queue.join()
    (delivery,) = await queue.take(1, block_seconds=0)
    await queue.report([(delivery, builders.failed(delivery.message.task_id), "")])
    working = PartitionWork(world.store, ownership=await owned(world))
    assert await working.apply_reports(await world.store.read_reports(0, count=1, block_seconds=0)) == 1
    world.data.partitions[0].timers.clear()
    for _ in range(5):
        await world.advance(2.0)
        await world.store.acquire(0, "o1", 1)
    watchdog = world.watchdog(repairs=repairs)
    assert await watchdog.look() == ("timers" not in repairs)
    stage = (await world.state(run)).stages["build"]
    assert (stage.task is not None) == ("timers" in repairs)
    assert await world.stalls() == ([] if "timers" in repairs else [(run, "timer-overdue")])


def test_the_setting_of_repairs() -> None:
    """All, some or none; what is not known is refused with what there is."""
    assert parse_repairs("") == REPAIRS
    assert parse_repairs("none") == frozenset()
    assert parse_repairs("timers, redispatch") == REPAIRS
    assert parse_repairs("timers") == {"timers"}
    with pytest.raises(ConfigurationError, match="redispatch, timers"):
        parse_repairs("timers,all")


async def test_all_open_runs_are_explained_at_once() -> None:
    """What they share is asked once; no more than wanted, those first that should have moved longest ago (here: all alike)."""
    world = World()
    runs = await world.start(30)
    await world.advance(10.0)
    found = await diagnose_open(world.store, most=20, second_look_seconds=0.0)
    assert found.open == 30
    assert [(item.workflow_id, item.cause) for item in found.items] == [(run, "no-worker") for run in sorted(runs)[:20]]
    alone = await diagnose(world.store, runs[0])
    assert replace(found.items[0], at=alone.at) == alone
    assert (await diagnose_open(World().store, most=20)).items == []
