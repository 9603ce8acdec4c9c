"""Projecting from real stores: what the store holds of a run, and what the read model says of it, are the same."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tailrace.core.commands import ApplyReport, CancelWorkflow
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.port import WorkflowStore
from tailrace.core.testing.builders import completed, started
from tailrace.core.testing.runner import Runner
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import ProjectorOptions
from tests.integration.projections.run_log import SEVEN
from tests.integration.projections.support import Database, projecting, until

PROCESS = Path(__file__).with_name("projector_process.py")


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> WorkflowStore:
    """Both back ends."""
    if request.param == "memory":
        return MemoryBackend().store()
    found: RedisStore = request.getfixturevalue("redis_store")
    return found


async def finish(runner: Runner, workflow_id: str, stages: int = 7) -> None:
    """Bring a run through its first `stages` stages."""
    for name in list(SEVEN.stages)[:stages]:
        task_id = f"{workflow_id}:{name}:1"
        await runner.carry_out(workflow_id, ApplyReport(report=started(task_id)))
        await runner.carry_out(workflow_id, ApplyReport(report=completed(task_id, {"stage": name})))


async def test_rows_are_what_the_store_holds(
    postgres_url: str, db: Database, queries: Queries, store: WorkflowStore
) -> None:
    """State, outputs and history of each run, on the memory store and on a real Redis."""
    runner = Runner(store, SEVEN)
    await runner.prepare()
    async with projecting(postgres_url, store):
        for number in range(6):
            await runner.create(f"run-{number}", labels={"n": str(number)})
            await finish(runner, f"run-{number}", stages=number + 2)
        await runner.carry_out("run-0", CancelWorkflow(reason="enough"))
        await until(lambda: db.is_caught_up_with(store))
    for number in range(6):
        snapshot = await store.load(f"run-{number}")
        row = await queries.get_workflow(f"run-{number}")
        assert snapshot is not None
        assert row is not None
        state = snapshot.state
        assert (row.status, row.version, row.progress_percentage, row.current_stage) == (
            state.status, state.version, state.progress_percentage, state.current_stage,
        )  # fmt: skip
        assert row.stage_outputs == snapshot.stage_outputs()
        assert row.labels == snapshot.created.labels
    for partition in range(store.partitions):
        assert await queries.log(partition, limit=500) == list(await store.read_log(partition, "0-0", count=500))


FOREIGN: list[dict[str, str | bytes]] = [
    {"foo": "bar"},
    {"type": "TaskStarted", "workflow": "run", "version": "9", "seq": "9" * 5000, "traceparent": "", "data": b"\xff"},
    {"type": b"\xff", "workflow": b"\xff", "version": "²", "seq": "²", "traceparent": b"\x00", "data": ""},
]


@pytest.mark.parametrize("fields", FOREIGN, ids=["unknown", "numbers", "bytes"])
async def test_what_somebody_put_into_the_log_is_named(
    postgres_url: str, db: Database, redis_store: RedisStore, fields: dict[str, str | bytes]
) -> None:
    """It has no place in the log: its partition says which entry it is and what to do, and goes on once it is gone."""
    runner = Runner(redis_store, SEVEN)
    await runner.prepare()
    await runner.create("run")
    partition = partition_of("run", redis_store.partitions)
    log = redis_store.keys.partition(partition).log
    problem = f"SELECT problem FROM tailrace.partitions WHERE partition = {partition}"
    async with projecting(postgres_url, redis_store):
        await until(lambda: db.is_caught_up_with(redis_store))
        added = await redis_store.client.command("XADD", log, "*", *(part for pair in fields.items() for part in pair))
        await finish(runner, "run", stages=2)
        await until(lambda: db.value(problem))
        said = await db.value(problem)
        assert said.startswith("log-diverged: ")
        assert f"entry {added.decode()} is no event" in said
        assert "XDEL" in said
        assert await redis_store.client.command("XDEL", log, added) == 1
        await until(lambda: db.is_caught_up_with(redis_store))
        await until(lambda: db.value(f"SELECT problem IS NULL FROM tailrace.partitions WHERE partition = {partition}"))
    assert await db.value("SELECT count(*) FROM tailrace.parked") == 0


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_projector_process_is_replaced_within_five_seconds(
    postgres_url: str,
    db: Database,
    redis_server: EmbeddedRedis,
    redis_store: RedisStore,
    namespace: str,
    blow: signal.Signals,
) -> None:
    """Killed or frozen under load, with leases as shipped: a stand-by goes on, and each event is projected once."""
    runner = Runner(redis_store, SEVEN)
    await runner.prepare()
    words = (str(PROCESS), redis_server.url, namespace, postgres_url)
    process = await asyncio.create_subprocess_exec(sys.executable, *words)
    try:
        await runner.create("first")
        await until(lambda: db.is_caught_up_with(redis_store))
        async with projecting(postgres_url, redis_store, name="standby", options=ProjectorOptions()):
            await until(lambda: _both_read(db))
            await finish(runner, "first", stages=3)
            process.send_signal(blow)
            begin = time.monotonic()
            for number in range(6):
                await runner.create(f"run-{number}")
                await finish(runner, f"run-{number}")
            await until(lambda: db.is_caught_up_with(redis_store))
            assert time.monotonic() - begin < 5
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert await db.value("SELECT count(*) FROM tailrace.workflows WHERE status = 'completed'") == 6
    assert await db.value("SELECT count(*) FROM tailrace.parked") == 0


async def _both_read(db: Database) -> bool:
    return len(set((await db.owners()).values())) == 2
