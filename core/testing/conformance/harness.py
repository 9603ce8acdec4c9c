"""What a back end's tests give to the suites: ports on one fresh namespace, time, and a hand that tampers."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec.structs import replace

from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import Delivery, LeaseKeeper, Limits, NoticeBook, TaskQueue, WorkflowStore
from tailrace.core.store.retention import Retention


class Harness(Protocol):
    """The fixture `backend`. The namespace is empty, has at least two partitions, and keeps the times in `limits`."""

    @property
    def limits(self) -> Limits: ...

    @property
    def store(self) -> WorkflowStore: ...

    @property
    def retention(self) -> Retention:
        """The part of the store that forgets."""

    def queue(self, agent: str, name: str) -> TaskQueue:
        """A queue of its own for each call; two with one name are two incarnations of a worker."""

    def keeper(self, agent: str, name: str) -> LeaseKeeper:
        """The lease keeper of a worker."""

    def notices(self) -> NoticeBook:
        """The notice book, as one more process has it."""

    async def advance(self, seconds: float) -> None:
        """Turn the clock on, or wait on a real one. Lets what can run do so before."""

    async def drop_task_entry(self, task_id: str) -> None:
        """Delete an open task's entry from its stream behind the store's back, and leave the pending list as it is."""

    async def acknowledge_entry(self, delivery: Delivery) -> None:
        """Acknowledge a delivered task behind the store's back, and leave its entry in the stream."""

    async def drop_workflow(self, workflow_id: str) -> None:
        """Delete a run's snapshot, as its expiry would."""

    async def add_raw_report(self, workflow_id: str, data: bytes, *, task_id: str = "") -> None:
        """Put a report of any bytes, sent for the entry of a task, into the run's partition, as a faulty worker would."""

    async def set_pulse(self, partition: int, at_us: int) -> None:
        """Say when the partition was last polled."""


async def pass_time(backend: Harness, seconds: float) -> None:
    """Let time pass while the store is polled, so that leases and timers go on running."""
    step = backend.limits.pulse_seconds / 3
    while True:
        for partition in range(backend.store.partitions):
            await backend.store.due_timers(partition, count=1)
        if seconds <= 0:
            return
        await backend.advance(min(step, seconds))
        seconds -= step


async def everything(backend: Harness, workflow_id: str, *agents: str) -> dict[str, Any]:
    """All that the ports show around a run, to find that nothing was written."""
    store = backend.store
    partition = partition_of(workflow_id, store.partitions)
    now = await store.now()
    queues = [queue for queue in await store.queues(agents) if queue.partition == partition]
    return {
        "head": await store.head(partition),
        "log": await store.read_log(partition, "0-0", count=1000),
        "run": await store.load(workflow_id),
        "open": [(entry.task_id, entry.entry_id, entry.state) for entry in await store.open_entries(workflow_id)],
        "queues": [(queue.agent, queue.backlog, queue.pending, queue.pending_by_worker) for queue in queues],
        "reports": [
            replace(entry, read_at=0) for entry in await store.read_reports(partition, count=1000, block_seconds=0)
        ],
        "timers": await _timers(store, partition, now),
        "expected": await store.open_workflows(partition, count=1000),
    }


async def _timers(store: WorkflowStore, partition: int, now: int) -> list[Any]:
    """Due timers and the next one; whether the partition rests shows in neither."""
    due, next_due = await store.due_timers(partition, count=1000)
    return [*due, next_due if next_due is not None and next_due > now else None]
