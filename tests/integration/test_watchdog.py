"""The watchdog and the diagnosis on a real server: what stands is named, what moves is left alone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from msgspec.structs import replace

from tailrace.core.commands import PauseWorkflow, ResumeWorkflow
from tailrace.core.errors import NotFound
from tailrace.core.events import StallCleared, TaskLost, TaskRedispatched, WorkflowStalled
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Limits
from tailrace.core.testing import builders
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog import Check, Watchdog, check_store, diagnose, diagnose_open
from tailrace.projections.watchdog.repairs import REPAIRS
from tests.integration.watchdog_world import OPTIONS, PATIENT, QUICK, Worker, World, running, until
from tests.support.servers import redis_program


@pytest.fixture
async def world(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[World]:
    """A fresh namespace with the times of production, but a short grace after an outage."""
    store = await RedisStore.open(
        RedisSettings(url=redis_server.url), namespace=namespace, partitions=2, limits=Limits(pulse_seconds=5.0)
    )
    yield World(store)
    await store.aclose()


@pytest.mark.failure(14)
async def test_no_worker_is_flagged_and_cleared_when_one_comes(world: World) -> None:
    """With evidence and with what to type; the run's own progress clears it."""
    workflow_id = await world.start(PATIENT)
    async with world.orchestrated(), world.watched():
        await world.until_flagged(workflow_id, "no-worker")
        stall = (await world.state(workflow_id)).stall
        assert stall is not None
        assert (stall.hop, stall.suggestion) == ("delivery", "tailrace worker builder")
        async with Worker(world.store).working():
            await world.until_completed(workflow_id)
    cleared = [found.event for found in await world.events(workflow_id) if isinstance(found.event, StallCleared)]
    assert [event.cause for event in cleared] == ["no-worker"]
    assert await world.stalls(workflow_id) == ["no-worker"]
    (stalled,) = [found for found in await world.events(workflow_id) if isinstance(found.event, WorkflowStalled)]
    assert isinstance(stalled.event, WorkflowStalled)
    assert stalled.event.evidence["backlog"] == 1
    assert stalled.command is not None
    assert stalled.command.actor == "watchdog"
    assert (await diagnose(world.store, workflow_id)).summary.startswith("completed at ")


@pytest.mark.failure(25)
async def test_workers_that_are_in_no_group(world: World) -> None:
    """They beat, and their groups are gone: no task will ever come to them."""
    worker = Worker(world.store)
    worker.taking = False
    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        for partition in range(world.store.partitions):
            key = world.store.keys.partition(partition).tasks("builder")
            assert await world.store.client.command("XGROUP", "DESTROY", key, "builder") == 1
        async with world.watched():
            await world.until_flagged(workflow_id, "no-worker")
        found = await diagnose(world.store, workflow_id)
        assert (found.cause, found.hop, found.healthy) == ("no-worker", "delivery", False)
        assert "group" in found.summary


@pytest.mark.failure(26)
async def test_workers_that_beat_and_take_nothing_are_hung(world: World) -> None:
    """Their slots are free and the queue stands."""
    worker = Worker(world.store)
    worker.taking = False
    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        async with world.watched():
            await world.until_flagged(workflow_id, "workers-hung")
        found = await diagnose(world.store, workflow_id)
        assert (found.cause, found.hop, found.healthy) == ("workers-hung", "delivery", False)


@pytest.mark.failure(28)
async def test_workers_that_mean_another_store(world: World) -> None:
    """The only ones that beat here joined a store of another identity, as this namespace was before it was made anew."""
    worker = Worker(world.store)
    worker.taking, worker.store_id = False, "another"
    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        async with world.watched():
            await world.until_flagged(workflow_id, "identity-mismatch")
        found = await diagnose(world.store, workflow_id)
        assert (found.cause, found.hop, found.healthy) == ("identity-mismatch", "delivery", False)
        assert "w1" in found.summary
        worker.store_id = world.store.instance_id
        worker.taking = True
        await world.until_completed(workflow_id)


async def test_reports_that_nobody_applies(world: World) -> None:
    """Not while a stand-by could still take over; then with the partition and its reports, though the stage has time."""
    async with Worker(world.store).working(), world.watched():
        workflow_id = await world.start(PATIENT)
        early = await world.until_explained(workflow_id, "orchestrator-behind")
        assert early.suggestion == "tailrace orchestrator"
        await world.until_flagged(workflow_id, "orchestrator-behind")
        async with world.orchestrated():
            await world.until_completed(workflow_id)
    assert await world.stalls(workflow_id) == ["orchestrator-behind"]


async def test_an_orchestrator_that_dies_in_the_middle_of_a_long_stage(world: World) -> None:
    """The run's own expectation is minutes away; its report waits, and that is enough to find it."""
    worker = Worker(world.store)
    worker.finishing = False
    async with worker.working():
        workflow_id = await world.start(PATIENT)
        async with world.orchestrated():
            await world.until_begun(workflow_id)
        worker.finishing = True
        async with world.watched():
            await world.until_flagged(workflow_id, "orchestrator-behind")


@pytest.mark.failure(5)
async def test_a_worker_that_dies_in_the_middle_of_a_long_stage(world: World) -> None:
    """The only one: flagged long before the stage's time is over, and cleared when another one takes the task."""
    workflow_id = await world.start(PATIENT)
    worker = Worker(world.store)
    worker.finishing = False
    async with world.orchestrated(), world.watched():
        async with worker.working():
            await world.until_begun(workflow_id)
        await world.until_flagged(workflow_id, "worker-lost")
        other = Worker(world.store, "w2")
        async with other.working():
            (delivery,) = await other.queue.claim(1)
            other.held[delivery.message.task_id] = delivery
            await world.until_completed(workflow_id)
    assert await world.stalls(workflow_id) == ["worker-lost"]


async def test_a_run_that_cannot_be_read_does_not_hide_those_beside_it(world: World) -> None:
    """The hash of one holds what it never should; the others of the same silent worker are flagged as ever."""
    runs = [await world.start(PATIENT) for _ in range(6)]
    worker = Worker(world.store, slots=len(runs))
    worker.finishing = False
    async with world.orchestrated():
        async with worker.working():
            for run in runs:
                await world.until_begun(run)
        for partition in range(world.store.partitions):
            broken = next(run for run in runs if partition_of(run, world.store.partitions) == partition)
            await world.break_state(broken)
            runs.remove(broken)
        async with world.watched():
            for run in runs:
                await world.until_flagged(run, "worker-lost")
    found = {item.workflow_id: item.cause for item in (await diagnose_open(world.store, most=10)).items}
    assert [found.pop(run) for run in runs] == ["worker-lost"] * len(runs)
    assert set(found.values()) == {"log-diverged"}


@pytest.mark.failure(26)
async def test_over_time_in_live_hands(world: World) -> None:
    """Its timer was removed behind the engine's back, so nothing ends the attempt."""
    worker = Worker(world.store)
    worker.finishing = False
    async with world.orchestrated(), worker.working(), world.watched():
        workflow_id = await world.start(QUICK)
        await world.until_begun(workflow_id)
        part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
        assert await world.store.client.command("ZREM", part.timers, f"{workflow_id}|attempt|build|1") == 1
        await world.until_flagged(workflow_id, "overdue")
        found = await diagnose(world.store, workflow_id)
        assert found.evidence["entry"]["worker"] == "w1"
        assert found.evidence["timeout_seconds"] == 1.0


async def test_a_retry_whose_timer_is_gone(world: World) -> None:
    """The orchestrator lives, and nothing fires."""
    retry = RetryPolicy(max_attempts=3, backoff_seconds=0.5)
    pipeline = builders.pipeline(builders.stage("build", agent="builder", retry=retry), name="retrying")
    worker = Worker(world.store)
    worker.outcome = builders.failed
    workflow_id = await world.start(pipeline)
    async with world.orchestrated():
        part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
        async with worker.working():

            async def removed() -> bool:
                return bool(await world.store.client.command("ZREM", part.timers, f"{workflow_id}|retry|build|1"))

            await until(removed)
        async with world.watched():
            await world.until_flagged(workflow_id, "timer-overdue")


async def test_an_entry_that_somebody_deleted(world: World) -> None:
    """It is nowhere, and nobody reported on it."""
    workflow_id = await world.start(PATIENT)
    part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
    (entry,) = await world.store.open_entries(workflow_id)
    await world.store.client.command("XDEL", part.tasks("builder"), entry.entry_id)
    async with world.orchestrated(), Worker(world.store).working(), world.watched():
        await world.until_flagged(workflow_id, "not-dispatched")


async def test_an_entry_that_somebody_deleted_is_put_back(world: World) -> None:
    """Where the watchdog may mend: the task is sent again with the reason, the run goes on, and nothing is flagged."""
    workflow_id = await world.start(PATIENT)
    part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
    (entry,) = await world.store.open_entries(workflow_id)
    await world.store.client.command("XDEL", part.tasks("builder"), entry.entry_id)
    watchdog = Watchdog(world.store, world.handler, replace(OPTIONS, repairs=REPAIRS))
    async with world.orchestrated(), Worker(world.store).working(), running(watchdog.run()):
        await world.until_completed(workflow_id)
    (sent,) = [found for found in await world.events(workflow_id) if isinstance(found.event, TaskRedispatched)]
    assert isinstance(sent.event, TaskRedispatched)
    assert sent.event.reason == "the watchdog found its entry gone from the stream"
    assert sent.command is not None
    assert sent.command.actor == "watchdog"
    assert await world.stalls(workflow_id) == []


@pytest.mark.failure(11)
@pytest.mark.failure(12)
async def test_a_report_that_can_not_be_applied(world: World) -> None:
    """Its sender did not check it: the task is over, the report is parked, and that is the cause of the stall."""
    worker = Worker(world.store)
    worker.taking = False
    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        (delivery,) = await worker.queue.take(2, block_seconds=1)
        bad = builders.completed(delivery.message.task_id, {"text": "a\x00b"})
        assert await worker.queue.report([(delivery, bad, "")]) == [True]
        async with world.watched():
            await world.until_flagged(workflow_id, "report-rejected")
        found = await diagnose(world.store, workflow_id)
    assert (found.cause, found.hop, found.healthy) == ("report-rejected", "transition", False)
    assert found.evidence["parked"] == 1


@pytest.mark.failure(3)
@pytest.mark.parametrize("renewing", [True, False])
async def test_an_entry_that_somebody_acknowledged(world: World, renewing: bool) -> None:
    """`why` names it at once. A holder that renews has it sent again; else it is flagged, long before the stage's time."""
    worker = Worker(world.store, slots=4)
    worker.finishing, worker.renewing = False, False

    async def redispatched() -> list[TaskRedispatched]:
        events = [found.event for found in await world.events(workflow_id)]
        return [event for event in events if isinstance(event, TaskRedispatched)]

    async def sent_again() -> bool:
        return bool(await redispatched())

    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        await world.until_begun(workflow_id)
        (delivery,) = worker.held.values()
        assert await world.store.client.command("XACK", delivery.stream, "builder", delivery.entry_id) == 1
        found = await diagnose(world.store, workflow_id)
        assert (found.cause, found.healthy) == ("silent-ack", False)
        assert found.evidence["worker"] == "w1"
        assert sum(queue.backlog for queue in await world.store.queues(["builder"])) == 0
        async with world.watched():
            if renewing:
                worker.renewing = True
                await until(sent_again)
                worker.finishing = True
                await world.until_completed(workflow_id)
            else:
                await world.until_flagged(workflow_id, "silent-ack")
    assert len(await redispatched()) == renewing
    assert await world.stalls(workflow_id) == ([] if renewing else ["silent-ack"])


async def test_an_entry_that_somebody_deleted_in_a_pause(world: World) -> None:
    """Nothing is dispatched until the run is resumed; then the task is sent again, and the run goes on to its end."""
    worker = Worker(world.store, slots=4)
    worker.finishing = False
    async with world.orchestrated(), worker.working():
        workflow_id = await world.start(PATIENT)
        await world.until_begun(workflow_id)
        await world.handler.execute(workflow_id, PauseWorkflow(), actor="test")
        (delivery,) = worker.held.values()
        await world.store.client.command("XDEL", delivery.stream, delivery.entry_id)

        async def lost() -> bool:
            return any(isinstance(found.event, TaskLost) for found in await world.events(workflow_id))

        await until(lost)
        assert [queue.backlog + queue.pending for queue in await world.store.queues(["builder"])] == [0, 0]
        assert (await diagnose(world.store, workflow_id)).cause == "paused"
        await world.handler.execute(workflow_id, ResumeWorkflow(), actor="test")

        async def sent_again() -> bool:
            held = worker.held.get(delivery.message.task_id)
            return held is not None and held.entry_id != delivery.entry_id

        await until(sent_again)
        worker.finishing = True
        await world.until_completed(workflow_id)


@pytest.mark.failure(18)
async def test_attempts_used_up(world: World) -> None:
    """The run ended by itself; `why` says by what, and how to try again."""
    retry = RetryPolicy(max_attempts=2, backoff_seconds=0.05)
    pipeline = builders.pipeline(builders.stage("build", agent="builder", retry=retry), name="failing")
    worker = Worker(world.store)
    worker.outcome = builders.failed
    async with world.orchestrated(), worker.working(), world.watched():
        workflow_id = await world.start(pipeline)
        found = await world.until_explained(workflow_id, "retry-budget")
    assert (found.status, found.healthy) == ("failed", False)
    assert found.suggestion == f"tailrace retry {workflow_id} --from-stage build"
    assert await world.stalls(workflow_id) == ["retry-budget"]


async def test_healthy_runs_are_left_alone(world: World) -> None:
    """One is worked on slowly, one waits in a backlog, one is paused: `why` explains them, nothing is recorded."""
    worker = Worker(world.store)
    worker.finishing = False
    async with world.orchestrated(), worker.working():
        slow = await world.start(PATIENT)
        await world.until_begun(slow)
        queued, paused = await world.start(PATIENT), await world.start(PATIENT)
        await world.handler.execute(paused, PauseWorkflow(), actor="test")
        async with world.watched():

            async def looked_at() -> bool:
                now = await world.store.now()
                return now - (await world.state(queued)).created_at > 4_000_000

            await until(looked_at)
            assert (await diagnose(world.store, slow)).healthy
            assert (await diagnose(world.store, slow)).summary.startswith("worker w1 works on stage build since")
            assert (await diagnose(world.store, queued)).cause == "backlog"
            assert (await diagnose(world.store, paused)).cause == "paused"
            worker.finishing = True
            await world.until_completed(queued)
    for workflow_id in (slow, queued, paused):
        assert await world.stalls(workflow_id) == []


@pytest.mark.hole("H23")
async def test_several_watchdogs_flag_once_and_say_it_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Many runs with one fault: one stall in each, and one line for all of them from each watchdog."""
    caplog.set_level(logging.INFO, "tailrace.projections.watchdog")
    runs = [await world.start(PATIENT) for _ in range(20)]
    async with world.orchestrated(), world.watched(count=3):
        for workflow_id in runs:
            await world.until_flagged(workflow_id, "no-worker")
    for workflow_id in runs:
        assert await world.stalls(workflow_id) == ["no-worker"]
    assert 1 <= sum("no-worker, agent builder" in message for message in caplog.messages) <= 3


async def test_a_store_that_cannot_be_reached(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The watchdog says so once and goes on when it is back; a diagnosis says that nothing is known."""
    caplog.set_level(logging.INFO, "tailrace.projections.watchdog")
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"), server=redis_program(), maxmemory_bytes=64 * 1024 * 1024)
    await server.start()
    store = await RedisStore.open(RedisSettings(url=server.url), namespace="outage", partitions=2)
    world = World(store)

    def said(words: str) -> Callable[[], Awaitable[bool]]:
        async def found() -> bool:
            return any(words in message for message in caplog.messages)

        return found

    try:
        workflow_id = await world.start(PATIENT)
        async with world.watched():
            await server.stop()
            await until(said("store-unreachable"))
            found = await diagnose(store, workflow_id)
            assert (found.cause, found.status, found.unreachable) == ("store-unreachable", "unknown", ("store",))
            (check,) = await check_store(store)
            assert check.status == "failed"
            await server.start()
            await until(said("the store can be reached again"))
            await world.until_flagged(workflow_id, "no-worker")
    finally:
        await store.aclose()
        await server.stop()
    assert sum("store-unreachable" in message for message in caplog.messages) == 1


async def test_a_run_that_is_not_there(world: World) -> None:
    """There is nothing to explain."""
    with pytest.raises(NotFound):
        await diagnose(world.store, "nobody")


def statuses(checks: Sequence[Check]) -> dict[str, set[str]]:
    """What the checks of each name say."""
    found: dict[str, set[str]] = {}
    for check in checks:
        found.setdefault(check.name, set()).add(check.status)
    return found


async def test_an_installation_is_checked(world: World) -> None:
    """Nobody works and nobody orchestrates; then somebody does. The embedded server keeps what it acknowledges."""
    await world.start(PATIENT)
    before = statuses(await check_store(world.store))
    assert before["store"] == before["durability"] == before["version"] == before["replication"] == {"ok"}
    assert before["agent builder"] == before["partition 0"] == before["partition 1"] == {"failed"}
    async with world.orchestrated(), Worker(world.store, slots=2).working():

        async def good() -> bool:
            return all(found == {"ok"} for found in statuses(await check_store(world.store)).values())

        await until(good)
    await world.store.client.command("XGROUP", "DESTROY", world.store.keys.partition(0).tasks("builder"), "builder")
    assert "failed" in statuses(await check_store(world.store))["agent builder"]
