"""The in-memory reference keeps the promises of the ports."""

from __future__ import annotations

import pytest

from tailrace.core.clock import to_us
from tailrace.core.partitioning import partition_of
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.partition import RawReport
from tailrace.core.store.memory.streams import read_id
from tailrace.core.store.port import Delivery, LeaseKeeper, Limits, NoticeBook, TaskQueue, WorkflowStore
from tailrace.core.store.retention import Retention
from tailrace.core.testing.clock import settle
from tailrace.core.testing.conformance import Harness, NoticeSuite, StoreSuite, TaskQueueSuite


class MemoryHarness:
    """A namespace in memory with four partitions."""

    def __init__(self) -> None:
        self._data = MemoryBackend(partitions=4)
        self._store = self._data.store()

    @property
    def limits(self) -> Limits:
        return self._data.limits

    @property
    def store(self) -> WorkflowStore:
        return self._store

    @property
    def retention(self) -> Retention:
        return self._store

    def queue(self, agent: str, name: str) -> TaskQueue:
        return self._data.queue(agent, name)

    def keeper(self, agent: str, name: str) -> LeaseKeeper:
        return self._data.keeper(agent, name)

    def notices(self) -> NoticeBook:
        return self._data.notices()

    async def advance(self, seconds: float) -> None:
        await settle()
        self._data.clock.advance(seconds)
        await settle()

    async def drop_task_entry(self, task_id: str) -> None:
        run = self._data.partition_of(task_id.partition(":")[0]).runs[task_id.partition(":")[0]]
        place = run.open_tasks[task_id]
        assert place.stream.delete(place.entry_id)

    async def acknowledge_entry(self, delivery: Delivery) -> None:
        partition = self._data.partitions[delivery.partition]
        stream = partition.stream(delivery.message.agent, delivery.stream.endswith(":high"))
        del stream.group.pending[read_id(delivery.entry_id)]

    async def drop_workflow(self, workflow_id: str) -> None:
        del self._data.partition_of(workflow_id).runs[workflow_id]

    async def add_raw_report(self, workflow_id: str, data: bytes, *, task_id: str = "") -> None:
        partition = self._data.partitions[partition_of(workflow_id, len(self._data.partitions))]
        partition.reports.add(RawReport(workflow_id=workflow_id, data=data, traceparent=""), self._data.clock.now())

    async def set_pulse(self, partition: int, at_us: int) -> None:
        self._data.partitions[partition].pulse.at_us = at_us


@pytest.fixture
def backend() -> Harness:
    """A fresh namespace for each test."""
    return MemoryHarness()


class TestMemoryStore(StoreSuite):
    """The store."""


class TestMemoryTaskQueue(TaskQueueSuite):
    """The task queue and the lease keeper."""


class TestMemoryNotices(NoticeSuite):
    """The notice book."""


async def test_blocking_reads_take_no_real_time(backend: Harness) -> None:
    """They end when the clock is turned, not when time passes."""
    before = await backend.store.now()
    await backend.advance(3600)
    assert await backend.store.now() == before + to_us(3600)
