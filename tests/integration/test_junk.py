"""Entries that no engine wrote, in every key that a watchdog looks at: they are nobody's end, and hide nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Limits
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog import check_store, diagnose, diagnose_open
from tests.integration.watchdog_world import PATIENT, Worker, World

JUNK = b"\xff\x00junk"


@pytest.fixture
async def world(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[World]:
    """A fresh namespace with the times of production, but a short grace after an outage."""
    store = await RedisStore.open(
        RedisSettings(url=redis_server.url), namespace=namespace, partitions=2, limits=Limits(pulse_seconds=5.0)
    )
    yield World(store)
    await store.aclose()


@pytest.mark.parametrize("key", ["expect", "timers", "tasks", "reports", "workers", "beat"])
async def test_junk_in_a_key_hides_nothing(world: World, key: str) -> None:
    """What stands beside it is flagged and explained as ever, and what can move moves."""
    client = world.store.client
    for partition in range(world.store.partitions):
        part = world.store.keys.partition(partition)
        match key:
            case "expect" | "timers":
                await client.command("ZADD", getattr(part, key), 0, JUNK)
            case "tasks":
                await client.command("XADD", part.tasks("builder"), "*", "foo", JUNK)
            case "reports":
                await client.command("XADD", part.reports, "*", "foo", JUNK)
            case "beat":
                beat = ("data", '{"agent": 7}', "at", "soon")
                await client.command("HSET", world.store.keys.worker("builder", "odd"), *beat)
                await client.command("ZADD", world.store.keys.workers("builder"), 10**18, "odd")
            case _:
                await client.command("ZADD", world.store.keys.workers("builder"), 10**18, JUNK)
    runs = [await world.start(PATIENT) for _ in range(4)]
    async with world.orchestrated(), world.watched():
        for run in runs:
            await world.until_flagged(run, "no-worker")
            assert (await diagnose(world.store, run)).cause == "no-worker"
        found = {item.workflow_id: item.cause for item in (await diagnose_open(world.store, most=50)).items}
        assert {found[run] for run in runs} == {"no-worker"}
        assert await check_store(world.store, timer_look_seconds=0.0)
        async with Worker(world.store).working():
            for run in runs:
                await world.until_completed(run)
