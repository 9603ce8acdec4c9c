"""Watchdogs as processes that are killed with -9 at the worst moments: what they flagged is told, and is told once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.watchdog_world import PATIENT, Worker, World
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.servers import redis_program
from tests.support.waiting import eventually

PATIENCE_SECONDS = 60.0


class Watchdogs:
    """Starts `tailrace watchdog` for a namespace, told to tell a receiver; `log` is what all of them say."""

    def __init__(self, url: str, world: World, receiver: Receiver, folder: Path) -> None:
        self.log = folder / "watchdogs.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
            "TAILRACE_DATA_DIR": str(folder / "data"),
            "TAILRACE_REDIS_URL": url,
            "TAILRACE_NAMESPACE": world.store.keys.namespace,
            "TAILRACE_WEBHOOKS": receiver.url,
            "TAILRACE_WEBHOOK_SECRET": SECRET,
            "TAILRACE_WEBHOOKS_PRIVATE": "1",
            "TAILRACE_NOTICE_QUIET_SECONDS": "0.5",
        }

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A watchdog, there for the block unless it is killed before."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tailrace.infra.cli", "watchdog", env=self._environment, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def world(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[World]:
    """A fresh namespace."""
    store = await RedisStore.open(RedisSettings(url=redis_server.url), namespace=namespace, partitions=2)
    yield World(store)
    await store.aclose()


async def flagged(world: World, run: str) -> None:
    """Wait until a watchdog has recorded the stall of a run that nobody works on, and not a moment longer."""

    async def is_flagged() -> bool:
        return await world.cause(run) == "no-worker"

    await eventually(is_flagged, PATIENCE_SECONDS)


async def reading(world: World) -> None:
    """Wait until somebody reads the log for notices."""
    book = RedisNotices(world.store)

    async def has_begun() -> bool:
        return len((await book.read()).positions) == world.store.partitions

    await eventually(has_begun, PATIENCE_SECONDS)


async def told(receiver: Receiver, *kinds: str) -> None:
    """Wait until this was told."""

    async def enough() -> bool:
        return len(receiver.notices) >= len(kinds)

    await eventually(enough, PATIENCE_SECONDS)
    assert receiver.kinds() == list(kinds)


async def test_killed_between_flagging_and_telling(world: World, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """The next ones, two of them, tell it: once. And nothing secret is in anybody's log."""
    async with receiving() as receiver, world.orchestrated(), AsyncExitStack() as started:
        watchdogs = Watchdogs(redis_server.url, world, receiver, tmp_path)
        async with watchdogs.one() as first:
            await reading(world)
            run = await world.start(PATIENT)
            await flagged(world, run)
            first.kill()
        assert receiver.ids == []
        for _ in range(2):
            await started.enter_async_context(watchdogs.one())
        await told(receiver, "incident-opened")
        async with Worker(world.store).working():
            await told(receiver, "incident-opened", "incident-over")
        assert len(receiver.ids) == 2
    log = watchdogs.log.read_text()
    assert "watchdog is ready" in log
    assert SECRET not in log
    assert "/hook" not in log


async def test_killed_while_it_tells(world: World, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Nobody knows whether the receiver took it: it is told again, when the claim has run out, under the same id."""
    async with receiving() as receiver:
        watchdogs = Watchdogs(redis_server.url, world, receiver, tmp_path)
        receiver.open.clear()
        async with watchdogs.one() as first:
            await reading(world)
            run = await world.start(PATIENT)

            async def is_asked() -> bool:
                return bool(receiver.ids)

            await eventually(is_asked, PATIENCE_SECONDS)
            first.kill()
        receiver.open.set()
        receiver.notices.clear()
        async with watchdogs.one():
            await told(receiver, "incident-opened")
        assert len(receiver.ids) == 2
        assert len(set(receiver.ids)) == 1
        assert receiver.notices[0]["data"]["examples"] == [run]


@pytest.mark.hole("H23")
async def test_a_redis_that_is_gone_is_told_while_it_is(tmp_path: Path) -> None:
    """Two watchdogs, and a Redis that is killed for longer than a restart takes: one of them tells it, while it is away. That it
    is over is told when it has been back for long enough, under the same incident; the fault
    that comes next is told as ever.
    """
    place = tmp_path / "redis"
    async with receiving() as receiver, EmbeddedRedis(place, server=redis_program()) as server:
        store = await RedisStore.open(RedisSettings(url=server.url), namespace="away", partitions=2)
        try:
            world = World(store)
            watchdogs = Watchdogs(server.url, world, receiver, tmp_path)
            async with watchdogs.one(), watchdogs.one():
                await reading(world)
                await server.kill()
                await told(receiver, "incident-opened")
                (opened,) = receiver.notices
                assert (opened["data"]["cause"], opened["subject"]) == ("store-unreachable", "store")
                assert opened["data"]["suggestion"] == "tailrace doctor"
                await server.start()
                await told(receiver, "incident-opened", "incident-over")
                assert receiver.notices[1]["data"]["incident"] == opened["data"]["incident"]
                run = await world.start(PATIENT)
                await flagged(world, run)
                await told(receiver, "incident-opened", "incident-over", "incident-opened")
                assert receiver.notices[2]["data"]["cause"] == "no-worker"
            assert len(set(receiver.ids)) == len(receiver.ids) == 3
        finally:
            await store.aclose()


async def test_a_redis_that_was_emptied_is_told(tmp_path: Path) -> None:
    """It answers, and is not the store that was joined: that stands in no run's log either. No book is begun there."""
    async with receiving() as receiver, EmbeddedRedis(tmp_path / "redis", server=redis_program()) as server:
        store = await RedisStore.open(RedisSettings(url=server.url), namespace="emptied", partitions=2)
        try:
            watchdogs = Watchdogs(server.url, World(store), receiver, tmp_path)
            async with watchdogs.one():
                await reading(World(store))
                await store.client.command("FLUSHALL")
                await told(receiver, "incident-opened")
            (opened,) = receiver.notices
            assert (opened["data"]["cause"], opened["data"]["scope"]) == ("log-diverged", "store")
            assert "it was emptied" in opened["data"]["summary"]
            left = await store.client.command("KEYS", "*")
            assert not [key for key in left if b"notices" in key], left
        finally:
            await store.aclose()
