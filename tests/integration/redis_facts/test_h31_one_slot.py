"""H31: every script's keys lie in one slot: on a server in cluster mode, which refuses any other call, all of it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ClusterCrossSlotError, ResponseError

from tailrace.agents.sdk import TaskContext, TaskError
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.errors import StoreUnavailable
from tailrace.core.redis_backend.connection import Client, RedisSettings, translate
from tailrace.core.store.port import Limits
from tailrace.core.testing.builders import diamond, pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.infra.embedded.server import free_port
from tailrace.projections.watchdog import check_store
from tests.integration.redis_facts.test_h02_scripts_check_before_they_write import CALLS, Scene
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.servers import redis_program
from tests.support.waiting import eventually


class ClusterRedis(EmbeddedRedis):
    """A cluster of one node."""

    def _configuration(self) -> str:
        return f"{super()._configuration()}cluster-enabled yes\ncluster-port {free_port()}\n"


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    """Where a node is that serves every slot."""
    server = ClusterRedis(tmp_path / "redis", server=redis_program(), tcp=True, maxmemory_bytes=128 * 1024 * 1024)
    async with server:
        client = Client(RedisSettings(url=server.url))
        await client.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        async def serves() -> bool:
            return b"cluster_state:ok" in await client.command("CLUSTER", "INFO")

        await eventually(serves)
        yield server.url
        await client.aclose()


@pytest.mark.hole("H31")
async def test_h31_no_call_crosses_slots(cluster_url: str, tmp_path: Path) -> None:
    """Each script with all its keys; then runs that fail, pause, retry and are cancelled, and every look at them."""
    async with Bench.on(cluster_url, tmp_path) as bench:
        # The server does refuse what crosses.
        (refused,) = await bench.store.client.pipeline_tolerant(
            [("EVAL", "return 1", 2, bench.store.keys.partition(0).log, bench.store.keys.partition(1).log)]
        )
        assert isinstance(refused, ClusterCrossSlotError)
    for name, make in CALLS.items():
        async with Bench.on(cluster_url, tmp_path, limits=Limits(owner_seconds=60.0)) as bench:
            call = await make(await Scene.set(bench))
            (reply,) = await bench.store.client.calls([call])
            assert not isinstance(reply, Exception), (name, reply)
    async with Bench.on(cluster_url, tmp_path, partitions=4) as bench:
        await lives(bench)


async def lives(bench: Bench) -> None:
    """What happens to runs, and what is asked about them, through the ports."""
    retry = RetryPolicy(max_attempts=2, backoff_seconds=0.05)
    flaky = (await bench.prepare(pipeline(stage("only", retry=retry, timeout_seconds=5.0)))).pipeline
    definition = (await bench.prepare(diamond())).pipeline
    failed: set[str] = set()

    async def act(context: TaskContext) -> None:
        if context.attempt == 1 and context.workflow_id.startswith("flaky") and context.task_id not in failed:
            failed.add(context.task_id)
            raise TaskError("once", "this time", retryable=True)
        await asyncio.sleep(0)

    cancelled = await bench.submit(definition, "cancelled", priority="high")
    paused = await bench.submit(definition, "paused")
    await bench.handler.execute(cancelled, CancelWorkflow(), actor="test")
    await bench.handler.execute(paused, PauseWorkflow(), actor="test")
    async with bench.orchestrating(), bench.working(act=act, claim_poll_seconds=0.05, renew_seconds=0.05):
        runs = [await bench.submit(flaky, f"flaky-{number}") for number in range(8)]
        await bench.handler.execute(paused, ResumeWorkflow(), actor="test")
        await bench.wait_status("completed", paused, *runs)
        failures = [check for check in await check_store(bench.store) if check.status == "failed"]
        assert failures == []
    assert len(failed) == 8
    await audit(bench.store)
    assert await bench.store.open_count() == 0


@pytest.mark.hole("H31")
@pytest.mark.parametrize("answer", ["TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN Hash slot"])
def test_h31_what_a_moving_slot_answers_is_tried_again(answer: str) -> None:
    """It is the store being away for a moment, and not one that is broken."""
    assert isinstance(translate(ResponseError(answer)), StoreUnavailable)
