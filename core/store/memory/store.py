"""`WorkflowStore` in memory. Each call is one step: nothing else runs between its checks and its writes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec

from tailrace.core.codec import decode
from tailrace.core.errors import NotFound
from tailrace.core.events import WorkflowCreated
from tailrace.core.store.memory import retention
from tailrace.core.store.memory.append import carry_out, owns, prepare
from tailrace.core.store.memory.data import MemoryData
from tailrace.core.store.memory.partition import OpenTaskEntry, Partition, RawReport
from tailrace.core.store.memory.streams import EntryId, TaskStream, read_id, spell
from tailrace.core.store.port import (
    Append,
    Appended,
    Head,
    OpenEntry,
    Ownership,
    ParkedEntry,
    PartitionFacts,
    Queue,
    RawEntry,
    ReportEntry,
    TimerRef,
    WorkerBeat,
)
from tailrace.core.store.retention import EndedRun, LogPlace
from tailrace.core.workflow.definition import Definition, Pipeline
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState

#: From which delivery on a task is named as repeated, and of how many of a stream's oldest entries the runs are named.
OFTEN: Final = 3
OLDEST: Final = 10


class MemoryStore:
    """The store of one process; all of one back end see the same data."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    @property
    def partitions(self) -> int:
        return len(self._data.partitions)

    @property
    def instance_id(self) -> str:
        return self._data.instance_id

    async def check_identity(self, partition: int) -> None:
        """It is never another one."""

    async def now(self) -> int:
        return self._data.clock.now()

    async def put_definition(self, definition: Definition) -> Pipeline:
        pipeline = Pipeline(definition)
        versions = self._data.versions.setdefault(definition.name, [])
        if pipeline.hash not in versions:
            versions.append(pipeline.hash)
        self._data.pipelines[pipeline.hash] = pipeline
        for agent in pipeline.agents:
            self._data.join(agent)
        return pipeline

    async def pipeline(self, content_hash: str) -> Pipeline:
        try:
            return self._data.pipelines[content_hash]
        except KeyError:
            raise NotFound("definition", content_hash) from None

    async def latest(self, name: str) -> Pipeline:
        versions = self._data.versions.get(name)
        if not versions:
            raise NotFound("definition", name)
        return self._data.pipelines[versions[-1]]

    async def definitions(self) -> dict[str, list[str]]:
        return {name: list(hashes) for name, hashes in self._data.versions.items()}

    async def load(self, workflow_id: str) -> Snapshot | None:
        return (await self.load_all([workflow_id]))[0]

    async def load_all(self, workflow_ids: Sequence[str]) -> list[Snapshot | None]:
        return [self._snapshot(workflow_id) for workflow_id in workflow_ids]

    def _snapshot(self, workflow_id: str) -> Snapshot | None:
        run = self._data.partition_of(workflow_id).runs.get(workflow_id)
        if run is None or run.is_tombstone:
            return None
        return Snapshot(
            state=decode(run.state, WorkflowState),
            created=decode(run.created, WorkflowCreated),
            outputs=dict(run.outputs),
        )

    async def load_states(self, workflow_ids: Sequence[str]) -> list[WorkflowState | None]:
        runs = [self._data.partition_of(workflow_id).runs.get(workflow_id) for workflow_id in workflow_ids]
        return [None if run is None or run.is_tombstone else decode(run.state, WorkflowState) for run in runs]

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        prepared = [prepare(append) for append in appends]
        now, full = self._data.clock.now(), self._data.fullness >= 1.0
        results = [
            carry_out(self._data.partition_of(item.append.workflow_id), item, now, full=full) for item in prepared
        ]
        self._data.changed.wake()
        return results

    async def acquire(self, partition: int, name: str, epoch: int | None) -> Ownership | None:
        data, now = self._partition(partition), self._data.clock.now()
        owner = data.owner
        if epoch is not None and (owner.name, owner.epoch) != (name, epoch):
            return None
        if epoch is None:
            if now < owner.until_us:
                return None
            owner.name, owner.epoch = name, owner.epoch + 1
        owner.until_us = now + self._data.owner_us
        return Ownership(partition=partition, name=name, epoch=owner.epoch)

    async def release_ownership(self, ownership: Ownership) -> None:
        data = self._partition(ownership.partition)
        if owns(data, ownership, self._data.clock.now()):
            data.owner.until_us = 0

    async def read_reports(self, partition: int, *, count: int, block_seconds: float) -> list[ReportEntry]:
        data = self._partition(partition)
        await self._data.wait_until(lambda: len(data.reports) > 0, block_seconds)
        now = await self.now()
        return [data.read_report(entry_id, now) for entry_id in islice(data.reports.entries, count)]

    async def park_report(self, partition: int, entry_id: str, reason: str) -> bool:
        data, parsed = self._partition(partition), read_id(entry_id)
        raw = data.reports.entries.get(parsed)
        if raw is None:
            return False
        data.reports.delete(parsed)
        data.parked.append((raw, reason, self._data.clock.now()))
        return True

    async def park_timer(self, partition: int, timer: TimerRef, reason: str) -> bool:
        data = self._partition(partition)
        if data.timers.get(timer.name) != timer.due_at:
            return False
        del data.timers[timer.name]
        data.parked.append((timer, reason, self._data.clock.now()))
        return True

    async def drop_timer(self, partition: int, timer: TimerRef) -> None:
        """Remove it, if it is there."""
        self._partition(partition).timers.pop(timer.name, None)

    async def due_timers(self, partition: int, *, count: int) -> tuple[list[TimerRef], int | None]:
        data, now = self._partition(partition), self._data.clock.now()
        if not data.poll(now):
            return [], data.pulse.grace_until_us
        by_time = sorted(data.timers.items(), key=lambda item: (item[1], item[0]))
        due = [TimerRef(name=name, due_at=due_at) for name, due_at in by_time if due_at <= now]
        return due[:count], next((due_at for _, due_at in by_time if due_at > now), None)

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> list[RawEntry]:
        data, position = self._partition(partition), read_id(after)
        await self._data.wait_until(lambda: data.log.last > position, block_seconds)
        return [_raw(data, entry_id) for entry_id in data.log.after(position, count)]

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        return read_id(entry_id) in self._partition(partition).log.entries

    async def head(self, partition: int) -> Head:
        data = self._partition(partition)
        return Head(seq=data.seq, epoch=self._data.epoch, last_entry_id=spell(data.log.last))

    async def trim_log(self, partition: int, first: LogPlace, *, count: int) -> int:
        return retention.trim_log(self._partition(partition), first, count)

    async def expire_runs(self, partition: int, runs: Sequence[EndedRun]) -> int:
        return retention.expire_runs(self._partition(partition), runs)

    async def overdue(self, partition: int, *, count: int) -> list[str]:
        data, now = self._partition(partition), self._data.clock.now()
        if not data.poll(now):
            return []
        return [workflow_id for workflow_id in _by_expectation(data) if data.expectations[workflow_id] <= now][:count]

    async def postpone(self, workflow_id: str, *, version: int, expect_at: int) -> bool:
        data = self._data.partition_of(workflow_id)
        run = data.runs.get(workflow_id)
        if run is None or run.version != version or workflow_id not in data.expectations:
            return False
        data.expectations[workflow_id] = expect_at
        return True

    async def open_entries(self, workflow_id: str) -> list[OpenEntry]:
        data = self._data.partition_of(workflow_id)
        run = data.runs.get(workflow_id)
        if run is None:
            return []
        return [self._where(data, task_id, place) for task_id, place in run.open_tasks.items()]

    async def parked(self, partition: int, *, count: int) -> list[ParkedEntry]:
        latest = list(self._partition(partition).parked)[: -count - 1 : -1]
        return [
            ParkedEntry(workflow_id=raw.workflow_id, task_id=raw.task_id, reason=reason, at=at)
            for raw, reason, at in latest
            if isinstance(raw, RawReport)
        ]

    async def unexpected(self, partition: int, workflow_ids: Sequence[str]) -> list[str]:
        known = self._partition(partition).expectations
        return [workflow_id for workflow_id in workflow_ids if workflow_id not in known]

    async def queues(self, agents: Sequence[str]) -> list[Queue]:
        now = self._data.clock.now()
        return [_queue(data, agent, now) for agent in agents for data in self._data.partitions]

    async def workers(self, agent: str) -> list[WorkerBeat]:
        return self._data.live_workers(agent)

    async def agents(self) -> list[str]:
        return sorted(self._data.agents)

    async def partition_facts(self, partition: int) -> PartitionFacts:
        data, now = self._partition(partition), self._data.clock.now()
        oldest = data.reports.oldest()
        return PartitionFacts(
            partition=partition,
            reports=len(data.reports),
            oldest_report_age_us=_age_us(oldest, now),
            owner=data.owner.name if now < data.owner.until_us else "",
            owner_until=data.owner.until_us,
            overdue_timers=sum(due_at <= now for due_at in data.timers.values()),
            parked=len(data.parked),
        )

    async def fullness(self) -> float:
        return self._data.fullness

    async def settings(self) -> dict[str, str]:
        return {"server": "memory"}

    async def open_workflows(self, partition: int, *, count: int) -> list[str]:
        return _by_expectation(self._partition(partition))[:count]

    async def open_count(self) -> int:
        return sum(len(_by_expectation(partition)) for partition in self._data.partitions)

    def _partition(self, number: int) -> Partition:
        return self._data.partitions[number]

    def _where(self, data: Partition, task_id: str, place: OpenTaskEntry) -> OpenEntry:
        stream, entry_id = place.stream, place.entry_id
        entry = OpenEntry(task_id=task_id, agent=stream.agent, entry_id=spell(entry_id), state="gone")
        if entry_id not in stream.entries:
            return entry
        pending = stream.group.pending.get(entry_id)
        if pending is not None:
            return msgspec.structs.replace(
                entry,
                state="delivered",
                worker=pending.consumer,
                idle_us=self._data.clock.now() - pending.since_us,
                deliveries=pending.deliveries,
            )
        if stream.is_acknowledged(entry_id):
            return msgspec.structs.replace(entry, state="acknowledged")
        ahead = sum(other < entry_id for other in stream.queued())
        if not stream.urgent:
            ahead += len(data.stream(stream.agent, True).queued())
        return msgspec.structs.replace(entry, state="queued", ahead=ahead)


def _raw(data: Partition, entry_id: EntryId) -> RawEntry:
    entry = data.log.entries[entry_id]
    return RawEntry(
        partition=data.number,
        entry_id=spell(entry_id),
        seq=entry.seq,
        workflow_id=entry.workflow_id,
        version=entry.version,
        type=entry.type,
        traceparent=entry.traceparent,
        data=entry.data,
    )


def _by_expectation(data: Partition) -> list[str]:
    return sorted(data.expectations, key=lambda workflow_id: (data.expectations[workflow_id], workflow_id))


def _age_us(entry_id: EntryId | None, now_us: int) -> int:
    return 0 if entry_id is None else max(0, now_us - entry_id[0] * 1000)


def _queue(data: Partition, agent: str, now_us: int) -> Queue:
    streams: list[TaskStream] = [data.stream(agent, urgent) for urgent in (True, False)]
    by_worker: dict[str, int] = {}
    for stream in streams:
        for pending in stream.group.pending.values():
            by_worker[pending.consumer] = by_worker.get(pending.consumer, 0) + 1
    queued = [entry_id for stream in streams for entry_id in stream.queued()]
    return Queue(
        agent=agent,
        partition=data.number,
        has_group=all(stream.has_group for stream in streams),
        backlog=len(queued),
        pending=sum(by_worker.values()),
        oldest_age_us=_age_us(min(queued, default=None), now_us),
        pending_by_worker=by_worker,
        acknowledged=tuple(
            entry.message.workflow_id
            for stream in streams
            for entry_id, entry in stream.entries.items()
            if stream.is_acknowledged(entry_id)
        ),
        repeated=tuple(
            stream.names[entry_id].workflow_id
            for stream in streams
            for entry_id, pending in stream.group.pending.items()
            if pending.deliveries >= OFTEN
        ),
        oldest=tuple(
            entry.message.workflow_id for stream in streams for entry in islice(stream.entries.values(), OLDEST)
        ),
        told=sum(len(stream.group.marked) for stream in streams),
    )
