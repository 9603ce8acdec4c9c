"""`TaskQueue` and `LeaseKeeper` in memory: the pending list is the lease table, and the fence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from tailrace.core.codec import decode, encode
from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput, StoreCorrupt, TailraceError
from tailrace.core.events import WorkflowCreated
from tailrace.core.store.checks import not_about
from tailrace.core.store.inputs import input_of
from tailrace.core.store.memory.data import MemoryData
from tailrace.core.store.memory.partition import Partition
from tailrace.core.store.memory.streams import RELEASED, EntryId, Pending, TaskStream, read_id, spell
from tailrace.core.store.port import Delivery, Renewal, TaskMessage, WorkerBeat
from tailrace.core.workflow.history import output_key

#: Reports that end a task, and so remove it.
FINAL: Final = frozenset({"completed", "failed", "cancelled"})

#: Since when a task that was handed back counts as idle: longer than any lease.
_LONG_AGO_US: Final = 0


class MemoryQueue:
    """The tasks of `agent`, as the worker `worker` sees them."""

    def __init__(self, data: MemoryData, agent: str, worker: str) -> None:
        self._data = data
        self._agent = agent
        self._worker = worker
        self._turn = 0

    async def join(self) -> None:
        self._data.join(self._agent)

    async def take(self, free: int, *, block_seconds: float) -> list[Delivery]:
        if free <= 0:
            return []
        await self._data.wait_until(self._has_tasks, block_seconds)
        now = self._data.clock.now()
        taken: list[Delivery] = []
        # Another partition comes first each time, so that none starves.
        self._turn += 1
        for urgent in (True, False):
            for partition in self._rotated():
                stream = partition.stream(self._agent, urgent)
                for entry_id in stream.deliver(self._worker, free - len(taken), now):
                    taken += self._received(partition, stream, entry_id, 1)
        return taken

    async def reconcile(self, held: Sequence[Delivery]) -> list[Delivery]:
        now = self._data.clock.now()
        known = {(delivery.stream, delivery.entry_id) for delivery in held}
        return [
            delivery
            for partition, stream, entry_id in self._pending()
            if stream.group.pending[entry_id].consumer == self._worker and (stream.name, spell(entry_id)) not in known
            for delivery in self._take_over(partition, stream, entry_id, now)
        ]

    async def claim(self, free: int) -> list[Delivery]:
        now = self._data.clock.now()
        running = {partition.number for partition in self._data.partitions if partition.poll(now)}
        claimed: list[Delivery] = []
        for partition, stream, entry_id in self._pending():
            idle_us = now - stream.group.pending[entry_id].since_us
            if partition.number not in running or idle_us < self._data.lease_us:
                continue
            if len(claimed) < free or not self._is_claimable(stream, entry_id):
                claimed += self._take_over(partition, stream, entry_id, now)
        return claimed

    async def report(self, reports: Sequence[tuple[Delivery, Report, str]]) -> list[bool | TailraceError]:
        now = self._data.clock.now()
        accepted: list[bool | TailraceError] = []
        for delivery, report, traceparent in reports:
            if (strange := not_about(delivery, report)) is not None:
                accepted.append(strange)
                continue
            try:
                encode(report)
            except (TypeError, ValueError, OverflowError) as error:
                accepted.append(InvalidInput(f"the report can't be encoded: {error}"))
                continue
            partition, stream, entry_id = self._place(delivery)
            is_held = stream.is_held(entry_id, self._worker, delivery.delivery)
            if is_held:
                if report.kind in FINAL:
                    stream.remove(entry_id)
                partition.add_report(report, delivery.message.workflow_id, traceparent, now)
            elif stream.is_acknowledged(entry_id):
                self._give_up_acknowledged(partition, stream, entry_id, delivery.delivery, now)
            accepted.append(is_held)
        self._data.changed.wake()
        return accepted

    async def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        return self.renew_now(held)

    def renew_now(self, held: Sequence[Delivery]) -> list[Renewal]:
        """Renew without awaiting, as the keeper does from its thread."""
        now = self._data.clock.now()
        renewals = []
        for delivery in held:
            partition, stream, entry_id = self._place(delivery)
            about = (delivery.message.task_id, delivery.entry_id, delivery.delivery)
            if not stream.is_held(entry_id, self._worker, delivery.delivery):
                if stream.is_acknowledged(entry_id):
                    self._give_up_acknowledged(partition, stream, entry_id, delivery.delivery, now)
                renewals.append(_renewal(*about, "lost"))
                continue
            # An entry that is gone can't be renewed: its lease runs out, and the next claim reports it as lost.
            if entry_id in stream.entries:
                stream.group.pending[entry_id].since_us = now
            renewals.append(_renewal(*about, "cancel" if entry_id in stream.group.marked else "ok"))
        return renewals

    def _give_up_acknowledged(
        self, partition: Partition, stream: TaskStream, entry_id: EntryId, delivery: int, now: int
    ) -> None:
        """Nobody would ever be given it again. Nobody waits for a task that was closed meanwhile; else it is told."""
        if entry_id not in stream.group.marked:
            pending = Pending(consumer=self._worker, since_us=now, deliveries=delivery)
            partition.tell_lost(stream.names[entry_id], pending, now)
        stream.remove(entry_id)
        self._data.changed.wake()

    async def release(self, held: Sequence[Delivery]) -> None:
        for delivery in held:
            _, stream, entry_id = self._place(delivery)
            if not stream.is_held(entry_id, self._worker, delivery.delivery):
                continue
            pending = stream.group.pending[entry_id]
            pending.consumer, pending.since_us = RELEASED, _LONG_AGO_US
            pending.deliveries -= 1
        self._data.changed.wake()

    async def inputs(self, messages: Sequence[TaskMessage]) -> list[dict[str, Any]]:
        return [self._input(message) for message in messages]

    async def beat(self, beat: WorkerBeat) -> None:
        self._data.beat(beat)

    async def leave(self) -> None:
        self._data.forget_worker(self._agent, self._worker)

    def _has_tasks(self) -> bool:
        streams = [
            partition.stream(self._agent, urgent) for partition in self._data.partitions for urgent in (True, False)
        ]
        return any(
            stream.has_group and stream.last > stream.group.last_delivered and stream.queued() for stream in streams
        )

    def _rotated(self) -> list[Partition]:
        partitions = self._data.partitions
        turn = self._turn % len(partitions)
        return partitions[turn:] + partitions[:turn]

    def _pending(self) -> Iterator[tuple[Partition, TaskStream, EntryId]]:
        """Pending entries of the agent, urgent ones first, oldest first; may change while it is walked."""
        for urgent in (True, False):
            for partition in self._data.partitions:
                stream = partition.stream(self._agent, urgent)
                for entry_id in sorted(stream.group.pending):
                    yield partition, stream, entry_id

    def _is_claimable(self, stream: TaskStream, entry_id: EntryId) -> bool:
        """False for what needs no free slot: closed, gone, or delivered too often."""
        is_open = entry_id in stream.entries and entry_id not in stream.group.marked
        return is_open and stream.group.pending[entry_id].deliveries < self._data.limits.delivery_limit

    def _take_over(self, partition: Partition, stream: TaskStream, entry_id: EntryId, now: int) -> list[Delivery]:
        """Take a pending entry, unless it was closed (removed), is gone or was delivered too often (reported)."""
        if self._is_claimable(stream, entry_id):
            return self._received(partition, stream, entry_id, stream.hand_over(entry_id, self._worker, now))
        if entry_id in stream.group.awaited:
            name = stream.names[entry_id]
            partition.tell_stopped(name.task_id, name.workflow_id, now)
        elif entry_id not in stream.group.marked:
            pending = stream.group.pending[entry_id]
            task = stream.entries.get(entry_id)
            if task is None:
                partition.tell_lost(stream.names[entry_id], pending, now)
            else:
                partition.tell_poison(task, pending, now)
        stream.remove(entry_id)
        self._data.changed.wake()
        return []

    def _received(self, partition: Partition, stream: TaskStream, entry_id: EntryId, delivery: int) -> list[Delivery]:
        entry = stream.entries[entry_id]
        return [
            Delivery(
                partition=partition.number,
                stream=stream.name,
                entry_id=spell(entry_id),
                message=entry.message,
                traceparent=entry.traceparent,
                delivery=delivery,
            )
        ]

    def _place(self, delivery: Delivery) -> tuple[Partition, TaskStream, EntryId]:
        partition = self._data.partitions[delivery.partition]
        return partition, partition.stream(self._agent, delivery.stream.endswith(":high")), read_id(delivery.entry_id)

    def _input(self, message: TaskMessage) -> dict[str, Any]:
        run = self._data.partition_of(message.workflow_id).runs.get(message.workflow_id)
        if run is None or run.is_tombstone:
            raise StoreCorrupt(f"the request of workflow {message.workflow_id} is not there")
        keys = [output_key(stage, attempt) for stage, attempt in message.inputs]
        if missing := [key for key in keys if key not in run.outputs]:
            raise StoreCorrupt(f"output {missing[0]} of workflow {message.workflow_id} is not there")
        outputs = [run.outputs[key] for key in keys]
        return input_of(message, decode(run.created, WorkflowCreated), outputs)


class MemoryKeeper:
    """Renewals and beats of one worker, without a loop. Call it from the loop's own thread: nothing here is locked."""

    def __init__(self, queue: MemoryQueue, data: MemoryData) -> None:
        self._queue = queue
        self._data = data

    def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        return self._queue.renew_now(held)

    def beat(self, beat: WorkerBeat) -> None:
        self._data.beat(beat)

    def close(self) -> None:
        """Nothing is open."""


def _renewal(task_id: str, entry_id: str, delivery: int, outcome: Literal["ok", "lost", "cancel"]) -> Renewal:
    return Renewal(task_id=task_id, entry_id=entry_id, delivery=delivery, outcome=outcome)
