"""Runs that ended long ago: the store forgets them when they are archived, and whoever asks for one does not notice."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tailrace.core.commands import RetryWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import CommandRefused, ReadModelUnavailable
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.testing.builders import create_workflow, line
from tailrace.core.workflow.history import Snapshot
from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tailrace.infra.processes.gateway import archived
from tailrace.projections.migrate import migrate
from tailrace.projections.queries import Queries
from tailrace.projections.retention import RetentionKeeper
from tests.integration.gateway_harness import Gateway
from tests.integration.projections.retaining import look, prompt
from tests.support.audit import record
from tests.support.bench import Bench
from tests.support.servers import redis_program
from tests.support.waiting import beside, eventually

PROCESS = Path(__file__).with_name("forgetting_process.py")

#: What is left of a run that expired.
TOMBSTONE = {b"v"}


async def fields(store: RedisStore, workflow_id: str) -> set[bytes]:
    """What the store still knows of a run."""
    part = store._part(workflow_id)
    return set(await store.client.command("HKEYS", part.workflow(workflow_id)))


async def forgotten(store: RedisStore, *workflow_ids: str) -> bool:
    """True when there is nothing left of these runs but their tombstones."""
    return all([await fields(store, workflow_id) == TOMBSTONE for workflow_id in workflow_ids])


@asynccontextmanager
async def forgetting(gateway: Gateway, url: str, **options: float) -> AsyncIterator[RetentionKeeper]:
    """A keeper beside the gateway's projector that lets runs go as soon as they have ended."""
    (owner,) = {row.owner for row in await gateway.services.queries.checkpoints()}
    assert owner is not None
    keeper = RetentionKeeper(
        url,
        gateway.store,
        owner=owner,
        owned=lambda: range(gateway.store.partitions),
        options=prompt(**{"run_seconds": 0.0, **options}),
    )
    async with beside(keeper.run()):
        yield keeper


async def test_an_expired_run_is_shown_as_before(projected: Gateway, database_url: str) -> None:
    """The run, its stages, tasks, events and artifacts: out of the read model what the store had shown."""
    run = await projected.finished(labels={"team": "a"})
    workflow_id = run["workflow_id"]
    held = projected.worker.hold("build")
    waiting = await projected.submit()
    await projected.archived(run)
    paths = [f"/workflows/{workflow_id}{part}" for part in ("", "/stages", "/tasks", "/artifacts")]
    before = [await projected.call("GET", path, status=200) for path in paths]
    async with forgetting(projected, database_url):
        await eventually(lambda: forgotten(projected.store, workflow_id))
        assert [await projected.call("GET", path, status=200) for path in paths] == before
        async with projected.stream(f"/workflows/{workflow_id}/events") as events:
            told = await events.rest()
        assert [event.version for event in told if event.id] == list(range(1, run["version"] + 1))
        assert (await projected.call("GET", f"/workflows/{waiting['workflow_id']}"))["status"] == "running"
        held.set()
        await eventually(lambda: forgotten(projected.store, workflow_id, waiting["workflow_id"]))
        ended = await projected.call("GET", f"/workflows/{waiting['workflow_id']}")
        assert (ended["status"], ended["progress_percentage"]) == ("completed", 100)


async def test_a_run_stays_for_its_time(projected: Gateway, database_url: str) -> None:
    """What ended less than that ago is in the store as it was."""
    run = await projected.finished()
    await projected.archived(run)
    async with forgetting(projected, database_url, run_seconds=3600.0) as keeper:
        await look(keeper)
        assert await projected.store.load(run["workflow_id"]) is not None


async def test_an_expired_run_is_retried(projected: Gateway, database_url: str) -> None:
    """It comes back with all it had, goes on from the stage that was named, and expires again."""
    run = await projected.finished()
    workflow_id = run["workflow_id"]
    async with forgetting(projected, database_url):
        for number in (2, 3):
            await eventually(lambda: forgotten(projected.store, workflow_id))
            begun = await projected.call(
                "POST", f"/workflows/{workflow_id}/retry", json={"from_stage": "ship"}, status=200
            )
            assert set(begun["stage_outputs"]) == {"plan", "build"}
            ended = await projected.wait_status(workflow_id, "completed")
            assert ended["stage_outputs"] == run["stage_outputs"]
            await eventually(lambda: forgotten(projected.store, workflow_id))
            row = await projected.services.queries.get_workflow(workflow_id)
            assert row is not None
            assert (row.status, row.round) == ("completed", number)
    stages = [name for name in projected.worker.taken if name == "plan"]
    assert len(stages) == 1, "what was completed before is not done again"


async def test_a_command_that_its_state_forbids_is_refused(projected: Gateway, database_url: str) -> None:
    """An expired run is what it was: it can't be paused, and it is not put back for that."""
    run = await projected.finished()
    async with forgetting(projected, database_url):
        await eventually(lambda: forgotten(projected.store, run["workflow_id"]))
        problem = await projected.call("POST", f"/workflows/{run['workflow_id']}/pause", status=409)
        assert problem["code"] == CommandRefused.code
        assert await forgotten(projected.store, run["workflow_id"])


async def test_a_key_of_an_expired_run_makes_no_second_one(projected: Gateway, database_url: str) -> None:
    """The same request gives the run, out of the archive; another body is refused; nothing is begun."""
    asked: dict[str, Any] = {"json": {"type": "app", "name": "once"}, "headers": {"Idempotency-Key": "k"}}
    run = await projected.call("POST", "/workflows?wait=20", status=201, **asked)
    async with forgetting(projected, database_url):
        await eventually(lambda: forgotten(projected.store, run["workflow_id"]))
        heads = [await projected.store.head(number) for number in range(projected.store.partitions)]
        async with projected.client.post(f"{projected.url}/api/v1/workflows", **asked) as response:
            assert (response.status, response.headers["Idempotent-Replayed"]) == (201, "true")
            assert await response.json() == run
        asked["json"]["name"] = "another"
        problem = await projected.call("POST", "/workflows", status=422, **asked)
        assert problem["code"] == "already-exists"
        assert [await projected.store.head(number) for number in range(projected.store.partitions)] == heads


async def test_without_an_archive_a_key_still_makes_no_second_run(bench: Bench) -> None:
    """While Postgres can't be asked the request fails, and may be sent again; the tombstone keeps the id taken."""
    runner = await bench.prepare(line("only"))
    async with bench.orchestrating(), bench.working():
        run = await bench.submit(runner.pipeline)
        await bench.wait_status("completed", run)
    state = await bench.state(run)
    await bench.store.client.command("DEL", bench.part(run).workflow(run))
    await bench.store.client.command("HSET", bench.part(run).workflow(run), "v", state.version)

    async def away(workflow_id: str) -> Snapshot | None:
        raise ReadModelUnavailable("Postgres is away")

    handler = CommandHandler(bench.store, archived=away)
    with pytest.raises(ReadModelUnavailable):
        await handler.create(create_workflow(runner.pipeline, run), actor="test")
    with pytest.raises(ReadModelUnavailable):
        await handler.execute(run, RetryWorkflow(), actor="test")
    assert await forgotten(bench.store, run)


async def killed(store: RedisStore, runs: Sequence[str], *words: str) -> None:
    """Let the process run until it has killed itself, or has nothing more to do."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROCESS), *words)

    async def done() -> bool:
        return process.returncode is not None or await forgotten(store, *runs)

    try:
        await eventually(done, timeout=60)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        assert await process.wait() == -signal.SIGKILL


async def test_killed_between_the_store_and_its_book(tmp_path: Path) -> None:
    """The projector dies before or after the store forgot some runs, both servers die too, again and again: in the end all
    runs are forgotten, none of them is lost, and each can be retried.
    """
    redis = EmbeddedRedis(tmp_path / "redis", server=redis_program(), maxmemory_bytes=256 * 1024 * 1024)
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    async with redis, postgres, Bench.on(redis.url, tmp_path) as bench:
        store = bench.store
        await migrate(postgres.url, instance_id=store.instance_id, partitions=store.partitions)
        runner = await bench.prepare(line("first", "second"))
        async with bench.orchestrating(), bench.working():
            runs = [await bench.submit(runner.pipeline) for _ in range(16)]
            await bench.wait_status("completed", *runs)
        snapshots = {run: await store.load(run) for run in runs}
        kills = 0
        while not await forgotten(store, *runs):
            where = "before" if kills % 2 else "after"
            await killed(store, runs, redis.url, store.keys.namespace, postgres.url, where)
            kills += 1
            server = redis if kills % 2 else postgres
            await server.kill()
            await server.start()
            assert kills < 40
        assert kills >= 4
        async with Queries(postgres.url) as queries:
            lookup = archived(queries)
            for run, snapshot in snapshots.items():
                assert await lookup(run) == snapshot
            handler = CommandHandler(store, archived=lookup)
            for run in runs:
                await handler.execute(run, RetryWorkflow(from_stage="second"), actor="test")
            async with bench.orchestrating(), bench.working():
                await bench.wait_status("completed", *runs)
            for run in runs:
                state, history = await bench.state(run), await queries.events(run)
                assert state.round == 2
                assert [record(entry).version for entry in history] == list(range(1, len(history) + 1))
