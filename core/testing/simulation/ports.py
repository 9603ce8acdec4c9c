"""The ports on a wire: `WorkflowStore`, `TaskQueue` and `LeaseKeeper` as a process has them that may lose its store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailrace.core.commands import Report
from tailrace.core.errors import TailraceError
from tailrace.core.store.memory import MemoryKeeper, MemoryQueue, MemoryStore
from tailrace.core.store.port import (
    Append,
    Appended,
    Delivery,
    Head,
    OpenEntry,
    Ownership,
    ParkedEntry,
    PartitionFacts,
    Queue,
    RawEntry,
    Renewal,
    ReportEntry,
    TaskMessage,
    TimerRef,
    WorkerBeat,
)
from tailrace.core.testing.simulation.wire import Wire
from tailrace.core.testing.simulation.witness import Witness
from tailrace.core.workflow.definition import Definition, Pipeline
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState


class UnreliableStore:
    """A `WorkflowStore` at the other end of a wire; the witness sees each append as it happens."""

    def __init__(self, store: MemoryStore, wire: Wire, witness: Witness) -> None:
        self._store = store
        self._wire = wire
        self._witness = witness

    @property
    def partitions(self) -> int:
        return self._store.partitions

    @property
    def instance_id(self) -> str:
        return self._store.instance_id

    async def now(self) -> int:
        return await self._wire.call("now", self._store.now)

    async def put_definition(self, definition: Definition) -> Pipeline:
        return await self._wire.call("put_definition", lambda: self._store.put_definition(definition))

    async def pipeline(self, content_hash: str) -> Pipeline:
        # Immutable, and kept by every process that saw it once: nothing can go wrong with it.
        return await self._store.pipeline(content_hash)

    async def latest(self, name: str) -> Pipeline:
        return await self._wire.call("latest", lambda: self._store.latest(name))

    async def definitions(self) -> dict[str, list[str]]:
        return await self._wire.call("definitions", self._store.definitions)

    async def load(self, workflow_id: str) -> Snapshot | None:
        return await self._wire.call("load", lambda: self._store.load(workflow_id))

    async def load_all(self, workflow_ids: Sequence[str]) -> list[Snapshot | None]:
        return await self._wire.call("load_all", lambda: self._store.load_all(workflow_ids))

    async def load_states(self, workflow_ids: Sequence[str]) -> list[WorkflowState | None]:
        return await self._wire.call("load_states", lambda: self._store.load_states(workflow_ids))

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        async def effect() -> list[Appended]:
            results = await self._store.append(appends)
            for append, appended in zip(appends, results, strict=True):
                self._witness.appended(append, appended)
            return results

        def summary(results: list[Appended]) -> tuple[Any, ...]:
            return tuple(
                (append.workflow_id, appended.outcome, appended.version, _names(append))
                for append, appended in zip(appends, results, strict=True)
            )

        return await self._wire.call("append", effect, summary)

    async def acquire(self, partition: int, name: str, epoch: int | None) -> Ownership | None:
        return await self._wire.call(
            "acquire",
            lambda: self._store.acquire(partition, name, epoch),
            lambda ownership: (partition, ownership.epoch) if ownership and epoch is None else (),
        )

    async def release_ownership(self, ownership: Ownership) -> None:
        await self._wire.call(
            "release", lambda: self._store.release_ownership(ownership), lambda _: (ownership.partition,)
        )

    async def read_reports(self, partition: int, *, count: int, block_seconds: float) -> list[ReportEntry]:
        return await self._wire.call_blocking(
            "read_reports",
            lambda: self._store.read_reports(partition, count=count, block_seconds=0),
            block_seconds,
            lambda entries: tuple(entry.entry_id for entry in entries),
        )

    async def park_report(self, partition: int, entry_id: str, reason: str) -> bool:
        return await self._wire.call(
            "park_report",
            lambda: self._store.park_report(partition, entry_id, reason),
            lambda parked: (entry_id, parked, reason),
        )

    async def due_timers(self, partition: int, *, count: int) -> tuple[list[TimerRef], int | None]:
        return await self._wire.call(
            "due_timers",
            lambda: self._store.due_timers(partition, count=count),
            lambda found: tuple(timer.name for timer in found[0]),
        )

    async def park_timer(self, partition: int, timer: TimerRef, reason: str) -> bool:
        return await self._wire.call(
            "park_timer",
            lambda: self._store.park_timer(partition, timer, reason),
            lambda parked: (partition, timer.name, parked, reason),
        )

    async def drop_timer(self, partition: int, timer: TimerRef) -> None:
        await self._wire.call(
            "drop_timer", lambda: self._store.drop_timer(partition, timer), lambda _: (partition, timer.name)
        )

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> list[RawEntry]:
        return await self._wire.call_blocking(
            "read_log", lambda: self._store.read_log(partition, after, count=count), block_seconds
        )

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        return await self._wire.call("has_entry", lambda: self._store.has_entry(partition, entry_id))

    async def head(self, partition: int) -> Head:
        return await self._wire.call("head", lambda: self._store.head(partition))

    async def check_identity(self, partition: int) -> None:
        await self._wire.call("check_identity", lambda: self._store.check_identity(partition))

    async def overdue(self, partition: int, *, count: int) -> list[str]:
        return await self._wire.call("overdue", lambda: self._store.overdue(partition, count=count))

    async def postpone(self, workflow_id: str, *, version: int, expect_at: int) -> bool:
        return await self._wire.call(
            "postpone", lambda: self._store.postpone(workflow_id, version=version, expect_at=expect_at)
        )

    async def open_entries(self, workflow_id: str) -> list[OpenEntry]:
        return await self._wire.call("open_entries", lambda: self._store.open_entries(workflow_id))

    async def parked(self, partition: int, *, count: int) -> list[ParkedEntry]:
        return await self._wire.call("parked", lambda: self._store.parked(partition, count=count))

    async def unexpected(self, partition: int, workflow_ids: Sequence[str]) -> list[str]:
        return await self._wire.call("unexpected", lambda: self._store.unexpected(partition, workflow_ids))

    async def queues(self, agents: Sequence[str]) -> list[Queue]:
        return await self._wire.call("queues", lambda: self._store.queues(agents))

    async def workers(self, agent: str) -> list[WorkerBeat]:
        return await self._wire.call("workers", lambda: self._store.workers(agent))

    async def agents(self) -> list[str]:
        return await self._wire.call("agents", self._store.agents)

    async def partition_facts(self, partition: int) -> PartitionFacts:
        return await self._wire.call("partition_facts", lambda: self._store.partition_facts(partition))

    async def fullness(self) -> float:
        return await self._wire.call("fullness", self._store.fullness)

    async def settings(self) -> dict[str, str]:
        return await self._wire.call("settings", self._store.settings)

    async def open_workflows(self, partition: int, *, count: int) -> list[str]:
        return await self._wire.call("open_workflows", lambda: self._store.open_workflows(partition, count=count))

    async def open_count(self) -> int:
        return await self._wire.call("open_count", self._store.open_count)


class UnreliableQueue:
    """A `TaskQueue` at the other end of a wire; the witness sees each report that is accepted."""

    def __init__(self, queue: MemoryQueue, wire: Wire, witness: Witness) -> None:
        self._queue = queue
        self._wire = wire
        self._witness = witness

    async def join(self) -> None:
        await self._wire.call("join", self._queue.join)

    async def take(self, free: int, *, block_seconds: float) -> list[Delivery]:
        return await self._wire.call_blocking(
            "take", lambda: self._queue.take(free, block_seconds=0), block_seconds, _deliveries
        )

    async def reconcile(self, held: Sequence[Delivery]) -> list[Delivery]:
        return await self._wire.call("reconcile", lambda: self._queue.reconcile(held), _deliveries)

    async def claim(self, free: int) -> list[Delivery]:
        return await self._wire.call("claim", lambda: self._queue.claim(free), _deliveries)

    async def report(self, reports: Sequence[tuple[Delivery, Report, str]]) -> list[bool | TailraceError]:
        async def effect() -> list[bool | TailraceError]:
            answers = await self._queue.report(reports)
            for (_, report, _), accepted in zip(reports, answers, strict=True):
                self._witness.reported(report, accepted=accepted is True)
            return answers

        def summary(answers: list[bool | TailraceError]) -> tuple[Any, ...]:
            return tuple(
                (report.kind, report.task_id, report.delivery, accepted)
                for (_, report, _), accepted in zip(reports, answers, strict=True)
            )

        return await self._wire.call("report", effect, summary)

    async def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        return await self._wire.call("renew", lambda: self._queue.renew(held), _renewals)

    async def release(self, held: Sequence[Delivery]) -> None:
        await self._wire.call("release", lambda: self._queue.release(held), lambda _: _deliveries(held))

    async def inputs(self, messages: Sequence[TaskMessage]) -> list[dict[str, Any]]:
        return await self._wire.call("inputs", lambda: self._queue.inputs(messages))

    async def beat(self, beat: WorkerBeat) -> None:
        await self._wire.call("beat", lambda: self._queue.beat(beat))

    async def leave(self) -> None:
        await self._wire.call("leave", self._queue.leave)


class UnreliableKeeper:
    """A `LeaseKeeper` at the other end of a wire, on a connection of its own."""

    def __init__(self, keeper: MemoryKeeper, wire: Wire) -> None:
        self._keeper = keeper
        self._wire = wire

    def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        return self._wire.call_nowait("renew", lambda: self._keeper.renew(held), _renewals)

    def beat(self, beat: WorkerBeat) -> None:
        self._wire.call_nowait("beat", lambda: self._keeper.beat(beat))

    def close(self) -> None:
        self._keeper.close()


def _names(append: Append) -> str:
    return "+".join(type(record.event).__name__ for record in append.records)


def _deliveries(deliveries: Sequence[Delivery]) -> tuple[Any, ...]:
    return tuple((delivery.message.task_id, delivery.delivery) for delivery in deliveries)


def _renewals(renewals: list[Renewal]) -> tuple[Any, ...]:
    return tuple((renewal.task_id, renewal.outcome) for renewal in renewals if renewal.outcome != "ok")
