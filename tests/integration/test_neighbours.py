"""What is wrong with one run or one reply concerns that run: its neighbours, and the processes, go on."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from tailrace.agents.runtime import Worker, WorkerOptions
from tailrace.agents.simulated import simulated_agent
from tailrace.core.artifacts import FileArtifacts
from tailrace.core.codec import encode
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import BATCH, Orchestrator
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisLeases, RedisTasks
from tailrace.core.testing.builders import completed, create_workflow, line, pipeline, stage, workflow_id_in
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.waiting import beside, eventually, pass_server_time


async def _ended(store: RedisStore, workflow_id: str) -> bool:
    snapshot = await store.load(workflow_id)
    return snapshot is not None and snapshot.state.status == "completed"


def _worker(store: RedisStore, folder: Path) -> Worker:
    options = WorkerOptions(name="w1", workspaces=folder / "workspaces", store_id=store.instance_id)
    queue, keeper = RedisTasks(store, "agent", "w1"), RedisLeases(store, "agent", "w1")
    return Worker(simulated_agent("agent"), queue, keeper, FileArtifacts(folder / "artifacts"), options)


async def _forever(worker: Worker) -> None:
    await worker.run(asyncio.Event())


async def test_run_that_cannot_be_read_stops_nobody_else(redis_store: RedisStore) -> None:
    """Its reports are parked with the reason; the runs beside it complete."""
    store, handler = redis_store, CommandHandler(redis_store)
    definition = await store.put_definition(line("only").definition)
    queue = RedisTasks(store, "agent", "w1")
    broken, healthy = (workflow_id_in(0, store.partitions, number=number) for number in (1, 2))
    for workflow_id in (broken, healthy):
        await handler.create(create_workflow(definition, workflow_id), actor="test")
    deliveries = await queue.take(2, block_seconds=1)
    await store.client.command("HSET", store.keys.partition(0).workflow(broken), "s", "garbage")
    await queue.report([(delivery, completed(delivery.message.task_id), "") for delivery in deliveries])
    async with beside(Orchestrator(store, "o1").run()):
        await eventually(lambda: _ended(store, healthy))
        facts = await store.partition_facts(0)
        assert (facts.reports, facts.parked) == (0, 1)


async def test_timers_that_cannot_be_decided_stop_nobody_else(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than are read at a time, all before a healthy one: they are parked, each said once in one line."""
    store, handler = redis_store, CommandHandler(redis_store)
    definition = await store.put_definition(pipeline(stage("only", start_timeout_seconds=0.2)).definition)
    lost, unreadable, healthy, other = (
        workflow_id_in(number == 4, store.partitions, number=number) for number in (1, 2, 3, 4)
    )
    for workflow_id in (lost, unreadable, healthy, other):
        await handler.create(create_workflow(definition, workflow_id), actor="test")
    part = store.keys.partition(0)
    (state,) = await store.load_states([lost])
    assert state is not None
    undecidable = msgspec.structs.replace(state, definition="0" * 64)
    await store.client.command("HSET", part.workflow(lost), "s", encode(undecidable))
    await store.client.command("HSET", part.workflow(unreadable), "s", "garbage")
    names: list[str | bytes] = ["", "nonsense", f"{lost}|start|only|x", b"\xff\xfe", f"{other}|start|only|1"]
    names += [f"{lost}|start|only|{number}" for number in range(200)]
    names += [f"{unreadable}|start|only|{number}" for number in range(200)]
    names += [f"bad {number}" for number in range(BATCH)]
    await store.client.pipeline([("ZADD", part.timers, 1, name) for name in names])

    async def retried() -> bool:
        (state,) = await store.load_states([healthy])
        return state is not None and state.stages["only"].attempt > 1

    async def parked_all() -> bool:
        return (await store.partition_facts(0)).parked == len(names)

    caplog.set_level(logging.WARNING)
    async with beside(Orchestrator(store, "o1").run()):
        await eventually(retried)
        await eventually(parked_all)
    said = [record for record in caplog.records if "timer" in record.getMessage()]
    assert len(said) == len(names)
    assert not any(record.exc_info for record in said)


async def test_large_request_reaches_the_handler(redis_store: RedisStore, tmp_path: Path) -> None:
    """An input that was stored as JSON, as the gateway does it, is what the handler is given."""
    store, handler = redis_store, CommandHandler(redis_store)
    definition = await store.put_definition(line("only").definition)
    wanted = {"simulate": {"only": [{"do": "succeed", "output": {"text": "x" * 20_000}}]}}
    ref = FileArtifacts(tmp_path / "artifacts").put(
        msgspec.json.encode(wanted), name="input.json", media_type="application/json"
    )
    command = create_workflow(definition, "large-1", input={"$artifact": msgspec.to_builtins(ref)})
    await handler.create(command, actor="test")
    async with beside(Orchestrator(store, "o1").run(), _forever(_worker(store, tmp_path))):
        await eventually(lambda: _ended(store, "large-1"))
    snapshot = await store.load("large-1")
    assert snapshot is not None
    # The output is over the limit as well: it went the same way.
    assert list(snapshot.stage_outputs()["only"]) == ["$artifact"]


@pytest.mark.failure(8)
async def test_worker_goes_on_after_a_refusal(redis_store: RedisStore, tmp_path: Path) -> None:
    """A report that the store refuses for a while is sent until it is taken."""
    store, handler = redis_store, CommandHandler(redis_store)
    definition = await store.put_definition(line("only").definition)
    workflow_id = workflow_id_in(0, store.partitions)
    reports = store.keys.partition(0).reports
    slow = {"simulate": {"only": [{"do": "slow", "seconds": 0.5}]}}
    await handler.create(create_workflow(definition, workflow_id, input=slow), actor="test")

    async def delivered() -> bool:
        return any(entry.state == "delivered" for entry in await store.open_entries(workflow_id))

    async with beside(_forever(_worker(store, tmp_path))):
        await eventually(delivered)
        await store.client.command("SET", reports, "not a stream")
        await pass_server_time(store, 1.0)
        await store.client.command("DEL", reports)
        async with beside(Orchestrator(store, "o1").run()):
            await eventually(lambda: _ended(store, workflow_id))


async def test_timer_of_a_missing_run_is_removed(redis_store: RedisStore) -> None:
    """Nobody can fire it; those of its neighbours fire, before it and behind it."""
    store, handler = redis_store, CommandHandler(redis_store)
    only = stage("only", start_timeout_seconds=0.1, retry=RetryPolicy(max_attempts=1))
    definition = await store.put_definition(pipeline(only).definition)
    part = store.keys.partition(0)
    first, missing, last = (workflow_id_in(0, store.partitions, number=number) for number in (1, 2, 3))
    for workflow_id in (first, missing, last):
        await handler.create(create_workflow(definition, workflow_id), actor="test")
    await store.client.command("DEL", part.workflow(missing))

    async def failed() -> bool:
        states = await store.load_states([first, last])
        return all(state is not None and state.status == "failed" for state in states)

    async def no_timers() -> bool:
        return bool(await store.client.command("ZCARD", part.timers) == 0)

    async with beside(Orchestrator(store, "o1").run()):
        await eventually(failed)
        await eventually(no_timers, timeout=5)
    assert await store.load_states([missing]) == [None]
