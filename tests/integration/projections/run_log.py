"""Logs to project from: histories made by the real decider, in a log that a test may tear at.

`RunLog` is a source of log entries like a store, with a clock of its own for the events and the wall's for waiting. It
can be trimmed, sent back in time, and fed with what no decider would write.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tailrace.core.clock import SECOND
from tailrace.core.codec import encode_event
from tailrace.core.commands import ApplyReport, Command
from tailrace.core.errors import StoreUnavailable
from tailrace.core.events import WorkflowCreated
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import Head, RawEntry
from tailrace.core.testing.builders import TRACEPARENT, completed, create_workflow, line, started
from tailrace.core.testing.clock import START_US
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import DecidedEvent, Snapshot, fold, step
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.fold import to_record

SEVEN = line("initialization", "scaffolding", "validation", "e2e_testing", "integration", "deployment", "monitoring")


#: What no event looks like.
NONSENSE = b"nonsense"


class RunLog:
    """The logs of all partitions of one namespace."""

    def __init__(self, *, partitions: int = 2, instance_id: str = "test-store") -> None:
        self._entries: list[list[RawEntry]] = [[] for _ in range(partitions)]
        self._seqs = [0] * partitions
        self._states: dict[str, WorkflowState] = {}
        self._changed = asyncio.Event()
        self._instance_id = instance_id
        self._ids = START_US // 1000
        self.epoch = "epoch-1"
        self.now = START_US
        self.reads = 0
        self.down = False

    @property
    def partitions(self) -> int:
        return len(self._entries)

    @property
    def instance_id(self) -> str:
        return self._instance_id

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> Sequence[RawEntry]:
        """Entries behind `after`."""
        self._check_up()
        self.reads += 1
        if block_seconds and not self._after(partition, after, 1):
            try:
                async with asyncio.timeout(block_seconds):
                    while not self._after(partition, after, 1):
                        await self._changed.wait()
                        self._check_up()
            except TimeoutError:
                return []
        return self._after(partition, after, count)

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        """True when the entry is there."""
        self._check_up()
        return any(entry.entry_id == entry_id for entry in self._entries[partition])

    async def head(self, partition: int) -> Head:
        """The end of the log."""
        self._check_up()
        entries = self._entries[partition]
        last = entries[-1].entry_id if entries else "0-0"
        return Head(seq=self._seqs[partition], epoch=self.epoch, last_entry_id=last)

    # Writing it.

    def do(self, workflow_id: str, command: Command, *, pipeline: Pipeline = SEVEN, seconds: float = 0.01) -> None:
        """Decide a command on a run, and append what it led to."""
        self.now += round(seconds * SECOND)
        state, decided = step(
            pipeline,
            self._states.get(workflow_id),
            command,
            now=self.now,
            command_id=f"c{self.now}",
            actor="test",
            traceparent=TRACEPARENT,
        )
        assert state is not None
        self._states[workflow_id] = state
        for item in decided:
            self._append(workflow_id, state.version - len(decided) + 1 + decided.index(item), item)
        self._wake()

    def create(self, workflow_id: str, *, pipeline: Pipeline = SEVEN, **fields: Any) -> None:
        """Start a run."""
        self.do(workflow_id, create_workflow(pipeline, workflow_id, **fields), pipeline=pipeline)

    def advance(self, workflow_id: str, *, pipeline: Pipeline = SEVEN, output: Any = None) -> str | None:
        """Start and complete the first open task of a run; gives its id, None when none is open."""
        for name, stage in self._states[workflow_id].stages.items():
            if stage.task is not None:
                task_id = f"{workflow_id}:{name}:{stage.task.attempt}"
                self.do(workflow_id, ApplyReport(report=started(task_id)), pipeline=pipeline)
                result = {"stage": name} if output is None else output
                self.do(workflow_id, ApplyReport(report=completed(task_id, result)), pipeline=pipeline)
                return task_id
        return None

    def finish(self, workflow_id: str, *, pipeline: Pipeline = SEVEN) -> None:
        """Bring a run to its end."""
        while self.advance(workflow_id, pipeline=pipeline):
            pass

    def put(self, workflow_id: str, version: int, type: str, data: bytes) -> RawEntry:
        """Append an entry that no decider made."""
        partition = partition_of(workflow_id, self.partitions)
        self._ids += 1
        self._seqs[partition] += 1
        entry = RawEntry(
            partition=partition,
            entry_id=f"{self._ids}-0",
            seq=self._seqs[partition],
            workflow_id=workflow_id,
            version=version,
            type=type,
            traceparent=TRACEPARENT,
            data=data,
        )
        self._entries[partition].append(entry)
        self._wake()
        return entry

    def follow_poison(self, workflow_id: str) -> None:
        """Let the run's version count on over an entry that was `put` at its end."""
        state = self._states[workflow_id]
        self._states[workflow_id] = type(state)(
            **{**{name: getattr(state, name) for name in state.__struct_fields__}, "version": state.version + 1}
        )

    # Tearing at it.

    def trim(self, partition: int, *, keep: int) -> None:
        """Drop all but the last `keep` entries."""
        entries = self._entries[partition]
        del entries[: len(entries) - keep]

    def forget(self) -> None:
        """Drop all entries and what is known of their runs; numbers go on."""
        for partition in range(self.partitions):
            self.trim(partition, keep=0)
        self._states.clear()

    def go_back(self, partition: int, *, by: int) -> None:
        """Lose the last `by` entries, and what the store knew of their runs, as a failover does."""
        lost = self._entries[partition][-by:]
        del self._entries[partition][-by:]
        self._seqs[partition] -= by
        for workflow_id in {entry.workflow_id for entry in lost}:
            left = [entry for entry in self._entries[partition] if entry.workflow_id == workflow_id]
            if not left:
                self._states.pop(workflow_id, None)
            elif all(entry.data != NONSENSE for entry in left):
                self._states[workflow_id] = self.snapshot(workflow_id).state

    def cut(self, *, down: bool) -> None:
        """Let the store be out of reach, or come back."""
        self.down = down
        self._wake()

    # Looking at it.

    def entries(self, partition: int) -> list[RawEntry]:
        """What is in the log of a partition."""
        return list(self._entries[partition])

    def ids(self) -> list[str]:
        """All runs, in order of their creation."""
        return list(self._states)

    def version(self, workflow_id: str) -> int:
        """The version of a run."""
        return self._states[workflow_id].version

    def snapshot(self, workflow_id: str) -> Snapshot:
        """The fold of a run's whole history in the log."""
        partition = partition_of(workflow_id, self.partitions)
        entries = [entry for entry in self._entries[partition] if entry.workflow_id == workflow_id]
        snapshot = fold(to_record(entry) for entry in entries)
        assert snapshot is not None
        return snapshot

    def _append(self, workflow_id: str, version: int, item: DecidedEvent) -> None:
        data = encode_event(item.event, at=item.at, command=item.command)
        self.put(workflow_id, version, type(item.event).__name__, data)

    def _after(self, partition: int, after: str, count: int) -> list[RawEntry]:
        entries = self._entries[partition]
        start = bisect_right(entries, _key(after), key=lambda entry: _key(entry.entry_id))
        return entries[start : start + count]

    def _check_up(self) -> None:
        if self.down:
            raise StoreUnavailable("the store is away")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def created_event(**fields: Any) -> bytes:
    """The `data` of a first event with fields that no gateway would let in."""
    values: dict[str, Any] = {"definition": SEVEN.hash, "type": "line", "name": "odd", "stages": (), **fields}
    return encode_event(WorkflowCreated(**values), at=START_US)


def _key(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
