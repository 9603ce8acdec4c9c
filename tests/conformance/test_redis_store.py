"""The Redis back end keeps the promises of the ports, on a real server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from tailrace.core.ids import TaskId
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisLeases, RedisTasks
from tailrace.core.store.port import Delivery, LeaseKeeper, Limits, NoticeBook, TaskQueue
from tailrace.core.testing.conformance import Harness, NoticeSuite, StoreSuite, TaskQueueSuite
from tailrace.infra.embedded import EmbeddedRedis

#: Short enough to wait for, long enough for a busy machine.
LIMITS = Limits(lease_seconds=0.6, owner_seconds=0.6, pulse_seconds=0.45)


class RedisHarness:
    """A namespace on the shared server, with four partitions."""

    def __init__(self, store: RedisStore) -> None:
        self._redis_store = store
        self._keepers: list[RedisLeases] = []

    @property
    def limits(self) -> Limits:
        return self._redis_store.limits

    @property
    def store(self) -> RedisStore:
        return self._redis_store

    @property
    def retention(self) -> RedisStore:
        return self._redis_store

    def queue(self, agent: str, name: str) -> TaskQueue:
        return RedisTasks(self._redis_store, agent, name)

    def keeper(self, agent: str, name: str) -> LeaseKeeper:
        keeper = RedisLeases(self._redis_store, agent, name)
        self._keepers.append(keeper)
        return keeper

    def notices(self) -> NoticeBook:
        return RedisNotices(self._redis_store)

    async def advance(self, seconds: float) -> None:
        # The clock of a real server can only be waited for.
        await asyncio.sleep(seconds)

    async def drop_task_entry(self, task_id: str) -> None:
        workflow_id = TaskId.parse(task_id).workflow_id
        (entry,) = [entry for entry in await self.store.open_entries(workflow_id) if entry.task_id == task_id]
        part = self._part(workflow_id)
        for urgent in (True, False):
            await self.store.client.command("XDEL", part.tasks(entry.agent, urgent=urgent), entry.entry_id)

    async def acknowledge_entry(self, delivery: Delivery) -> None:
        await self.store.client.command("XACK", delivery.stream, delivery.message.agent, delivery.entry_id)

    async def drop_workflow(self, workflow_id: str) -> None:
        await self.store.client.command("DEL", self._part(workflow_id).workflow(workflow_id))

    async def add_raw_report(self, workflow_id: str, data: bytes, *, task_id: str = "") -> None:
        fields = ("workflow", workflow_id, "task", task_id, "traceparent", "", "data", data)
        await self.store.client.command("XADD", self._part(workflow_id).reports, "*", *fields)

    async def set_pulse(self, partition: int, at_us: int) -> None:
        await self.store.client.command("HSET", self.store.keys.partition(partition).pulse, "at", at_us)

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.close()

    def _part(self, workflow_id: str):  # type: ignore[no-untyped-def]  # keys of the partition
        return self.store.keys.partition(partition_of(workflow_id, self.store.partitions))


@pytest.fixture
async def backend(redis_server: EmbeddedRedis) -> AsyncIterator[Harness]:
    """A fresh namespace for each test."""
    store = await RedisStore.open(
        RedisSettings(url=redis_server.url), namespace=f"t{os.urandom(6).hex()}", partitions=4, limits=LIMITS
    )
    harness = RedisHarness(store)
    yield harness
    harness.close()
    await store.aclose()


class TestRedisStore(StoreSuite):
    """The store."""


class TestRedisTaskQueue(TaskQueueSuite):
    """The task queue and the lease keeper."""


class TestRedisNotices(NoticeSuite):
    """The notice book."""
