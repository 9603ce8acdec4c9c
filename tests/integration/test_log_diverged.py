"""Redis is emptied under running processes, a run's hash is removed, its bytes are broken: it is said, and nothing goes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.core.commands import CancelWorkflow, RetryWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.errors import LogDiverged, NotFound
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import Limits
from tailrace.core.testing import builders
from tailrace.infra.commands.doctor import collect_checks
from tailrace.infra.config import Settings
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.infra.processes.gateway import archived
from tailrace.projections.queries import Queries
from tailrace.projections.watchdog import Diagnosis, diagnose
from tests.integration.gateway_harness import gateway
from tests.integration.projections.support import projecting
from tests.integration.watchdog_world import PATIENT, Worker, World, until
from tests.support.servers import redis_program
from tests.support.waiting import beside


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server that the test may empty."""
    async with EmbeddedRedis(tmp_path / "redis", server=redis_program()) as server:
        yield server


@pytest.fixture
async def world(own_redis: EmbeddedRedis) -> AsyncIterator[World]:
    """A namespace on it."""
    store = await RedisStore.open(
        RedisSettings(url=own_redis.url), namespace="flushed", partitions=2, limits=Limits(pulse_seconds=5.0)
    )
    yield World(store)
    await store.aclose()


@pytest.fixture
async def queries(database_url: str) -> AsyncIterator[Queries]:
    """The read side."""
    async with Queries(database_url) as found:
        yield found


async def until_archived(queries: Queries, world: World, workflow_id: str) -> None:
    """Wait until the archive has the run as the store has it."""
    version = (await world.state(workflow_id)).version

    async def reached() -> bool:
        row = await queries.get_workflow(workflow_id)
        return row is not None and row.version == version

    await until(reached)


async def why(world: World, queries: Queries, workflow_id: str) -> Diagnosis:
    """As the gateway asks."""
    return await diagnose(world.store, workflow_id, read_model=queries, archived=archived(queries))


async def keys_of(world: World) -> dict[bytes, bytes]:
    """Every key of the server that does not go by itself, as DUMP gives it."""
    command = world.store.client.command
    return {key: await command("DUMP", key) for key in await command("KEYS", "*") if b":worker" not in key}


async def test_redis_is_emptied_under_all_processes(
    world: World, queries: Queries, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each stops, says why, and writes nothing of a namespace; with the data put back all go on by themselves."""
    command = world.store.client.command
    caplog.set_level(logging.INFO)
    worker = Worker(world.store)
    worker.taking = False
    async with projecting(database_url, world.store), world.orchestrated(), world.watched(), worker.working():
        workflow_id, ended = await world.start(PATIENT), await world.start(PATIENT)
        worker.taking = True
        await world.until_completed(ended)
        await world.until_completed(workflow_id)
        worker.taking = False
        workflow_id = await world.start(PATIENT)
        for run in (workflow_id, ended):
            await until_archived(queries, world, run)
        kept = await keys_of(world)
        await command("FLUSHALL")

        async def all_stopped() -> bool:
            problems = {row.problem for row in await queries.checkpoints()}
            stopped = [
                message for message in caplog.messages if "log-diverged" in message and "trying again" in message
            ]
            watched = [message for message in caplog.messages if "log-diverged: nothing is watched" in message]
            return all(problem and "log-diverged" in problem for problem in problems) and bool(stopped and watched)

        await until(all_stopped)
        found = await why(world, queries, workflow_id)
        assert (found.cause, found.hop, found.status, found.healthy) == ("log-diverged", "store", "initiated", False)
        assert found.evidence["archived_status"] == "initiated"
        assert found.suggestion == "tailrace doctor"
        assert "it was emptied" in found.summary
        over = await why(world, queries, ended)
        assert (over.cause, over.status, [one.cause for one in over.secondary]) == (None, "completed", ["log-diverged"])
        assert not over.unreachable
        assert (await why(world, queries, "nobody")).cause == "log-diverged"
        with pytest.raises(LogDiverged):
            await world.start(PATIENT)
        with pytest.raises(LogDiverged):
            await RedisTasks(world.store, "builder", "w2").join()
        left = set(await command("KEYS", "*"))
        assert not {key for key in left if key.endswith((b":meta", b":head", b":log", b":owner", b":agents", b":defs"))}
        assert not {key for key in left if b":wf:" in key or b":tasks:" in key}

        await command("FLUSHALL")
        for key, data in kept.items():
            await command("RESTORE", key, 0, data, "REPLACE")  # a process may have written meanwhile
        worker.taking = True
        await world.until_completed(workflow_id)
        await until_archived(queries, world, workflow_id)


@pytest.mark.failure(28)
async def test_a_namespace_that_was_made_anew_is_another_one(world: World, own_redis: EmbeddedRedis) -> None:
    """A process that joined the old one writes nothing into the new one, and says what it found."""
    workflow_id = await world.start(PATIENT)
    await world.store.client.command("FLUSHALL")
    other = await RedisStore.open(RedisSettings(url=own_redis.url), namespace="flushed", partitions=2)
    try:
        await other.put_definition(PATIENT.definition)
        before = [await other.head(0), await other.head(1)]
        with pytest.raises(LogDiverged, match="nothing was written"):
            await world.handler.create(builders.create_workflow(PATIENT, "run-9"), actor="test")
        assert [await other.head(0), await other.head(1)] == before
        with pytest.raises(LogDiverged, match="epoch"):
            await world.store.head(0)
    finally:
        await other.aclose()
    found = await diagnose(world.store, workflow_id)
    assert (found.cause, found.status) == ("log-diverged", "unknown")
    assert "made anew" in found.summary


@pytest.mark.parametrize("gone", ["meta", "head"])
async def test_a_namespace_that_lost_a_part_is_not_begun_again(
    world: World, own_redis: EmbeddedRedis, gone: str
) -> None:
    """Whoever starts then is told, and the log that is there stays as it is."""
    workflow_id = await world.start(PATIENT)
    part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
    await world.store.client.command("DEL", world.store.keys.meta if gone == "meta" else part.head)
    before = await keys_of(world)
    with pytest.raises(LogDiverged, match="gone"):
        await RedisStore.open(RedisSettings(url=own_redis.url), namespace="flushed", partitions=2)
    assert await keys_of(world) == before
    assert (await diagnose(world.store, workflow_id)).cause == "log-diverged"


async def test_a_hash_that_somebody_removed(
    world: World, queries: Queries, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is called by its name, with what is left of the run; what is suggested brings the run to its end."""
    async with projecting(database_url, world.store), world.orchestrated(), world.watched():
        workflow_id = await world.start(PATIENT)
        await until_archived(queries, world, workflow_id)
        part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
        await world.store.client.command("DEL", part.workflow(workflow_id))
        found = await why(world, queries, workflow_id)
        assert (found.cause, found.hop, found.status, found.healthy) == ("log-diverged", "store", "initiated", False)
        assert found.evidence["hash"] == "missing"
        assert found.evidence["archived_version"] == found.evidence["last_version_in_log"]
        assert found.suggestion == f"tailrace cancel {workflow_id} && tailrace retry {workflow_id} --from-stage build"

        async def said() -> bool:
            return any("log-diverged: run" in message and workflow_id in message for message in caplog.messages)

        await until(said)
        handler = CommandHandler(world.store, archived=archived(queries))
        await handler.execute(workflow_id, CancelWorkflow(), actor="test")
        await handler.execute(workflow_id, RetryWorkflow(from_stage="build"), actor="test")
        await world.until_flagged(workflow_id, "no-worker")
        async with Worker(world.store).working():
            await world.until_completed(workflow_id)


async def test_a_hash_that_was_removed_before_it_was_archived(world: World) -> None:
    """The log alone shows that the run was there; nothing is suggested that would begin on half of it."""
    workflow_id = await world.start(PATIENT)
    part = world.store.keys.partition(partition_of(workflow_id, world.store.partitions))
    await world.store.client.command("DEL", part.workflow(workflow_id))
    found = await diagnose(world.store, workflow_id)
    assert (found.cause, found.status, found.suggestion) == ("log-diverged", "unknown", "tailrace doctor")
    assert found.evidence["events_in_log"] == found.evidence["last_version_in_log"] == 2
    with pytest.raises(NotFound):
        await diagnose(world.store, "nobody")


@pytest.mark.parametrize("field", ["s", "in"])
async def test_a_state_that_can_not_be_read(world: World, queries: Queries, database_url: str, field: str) -> None:
    """That it can't be, and what of it, is the diagnosis; of another type it is the same."""
    async with projecting(database_url, world.store):
        workflow_id = await world.start(PATIENT)
        await until_archived(queries, world, workflow_id)
        key = world.store.keys.partition(partition_of(workflow_id, world.store.partitions)).workflow(workflow_id)
        await world.store.client.command("HSET", key, field, b"\xc1")
        found = await why(world, queries, workflow_id)
        assert (found.cause, found.status, found.healthy) == ("log-diverged", "initiated", False)
        assert (found.evidence["hash"], found.evidence["reason"]) == ("unreadable", "store-corrupt")
        assert "can't be read" in found.summary
        await world.store.client.command("SET", key, "text")
        found = await why(world, queries, workflow_id)
        assert (found.cause, found.evidence["hash"]) == ("log-diverged", "unreadable")


@pytest.mark.failure(2)
async def test_the_gateway_on_an_emptied_redis(own_redis: EmbeddedRedis, database_url: str, tmp_path: Path) -> None:
    """What is archived is still shown, what is new is refused by its name, and the gateway is not ready."""
    async with gateway(own_redis.url, tmp_path, postgres_url=database_url, working=False) as served:
        async with beside(Orchestrator(served.store, "o1").run(), served.worker.run()):
            run = await served.finished()
        await served.archived(run)
        await served.store.client.command("FLUSHALL")
        shown = await served.call("GET", f"/workflows/{run['workflow_id']}", status=200)
        assert (shown["status"], shown["stage_outputs"]) == ("completed", run["stage_outputs"])
        for method, path in (("POST", "/workflows"), ("GET", "/workflows/nobody"), ("GET", "/workflows/nobody/events")):
            problem = await served.call(method, path, json={"type": "app", "name": "x"} if method == "POST" else None)
            assert problem["code"] == "log-diverged", (path, problem)
        async with served.client.get(f"{served.url}/health/ready") as response:
            assert response.status == 503
            assert "log-diverged" in (await response.json())["checks"]["store"]["detail"]


async def test_a_gateway_that_joins_the_new_namespace(
    world: World, own_redis: EmbeddedRedis, database_url: str
) -> None:
    """Its read model is of another store: an old run is neither healthy nor unknown, and not begun again."""
    async with projecting(database_url, world.store), Queries(database_url) as queries:
        workflow_id = await world.start(PATIENT)
        await until_archived(queries, world, workflow_id)
    await world.store.client.command("FLUSHALL")
    store = await RedisStore.open(RedisSettings(url=own_redis.url), namespace="flushed", partitions=2)
    try:
        async with Queries(database_url, instance_id=store.instance_id) as queries:
            found = await diagnose(store, workflow_id, read_model=queries, archived=archived(queries))
    finally:
        await store.aclose()
    assert (found.cause, found.suggestion) == ("log-diverged", "tailrace doctor")
    assert world.store.instance_id in found.summary


async def test_doctor_on_an_emptied_redis(world: World, own_redis: EmbeddedRedis, database_url: str) -> None:
    """It knows from the read model that there was a namespace, and which; also once there is another one."""
    settings = Settings(redis_url=own_redis.url, postgres_url=database_url, namespace="flushed")

    async def log_checks() -> list[str]:
        found = await collect_checks(settings)
        return [check.detail for check in found if check.name == "log" and check.status == "failed"]

    async with projecting(database_url, world.store):
        workflow_id = await world.start(PATIENT)
        async with Queries(database_url) as queries:
            await until_archived(queries, world, workflow_id)
        assert await log_checks() == []
    await world.store.client.command("FLUSHALL")
    (detail,) = await log_checks()
    assert detail.startswith("log-diverged: the read model was built from store")
    assert "emptied" in detail
    other = await RedisStore.open(RedisSettings(url=own_redis.url), namespace="flushed", partitions=2)
    await other.aclose()
    (detail,) = await log_checks()
    assert other.instance_id in detail
