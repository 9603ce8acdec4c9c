"""A projector without Postgres: the fold of the projections, with rows and checkpoint written in one step.

`Database` is what a database is here for: it is changed whole or not at all, and only by who read from where it stands. Like
the real one it keeps every event, so that the log may be trimmed and runs may be forgotten.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tailrace.core.errors import LogDiverged, StoreUnavailable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import RawEntry, WorkflowStore
from tailrace.core.testing.simulation import Wire
from tailrace.core.workflow import history
from tailrace.core.workflow.history import Snapshot
from tailrace.projections.batch import Batch, decode, fold
from tailrace.projections.checkpoints import BEGINNING, Place
from tailrace.projections.continuity import check_dense
from tailrace.projections.fold import RunView, StallRow, TaskRow
from tests.support.audit import record


class Database:
    """Rows, and one place per partition up to which they are true."""

    def __init__(self, partitions: int) -> None:
        self.places = [Place(position=BEGINNING, seq=0) for _ in range(partitions)]
        self.views: dict[str, RunView] = {}
        self.tasks: dict[str, TaskRow] = {}
        self.stalls: dict[tuple[str, int], StallRow] = {}
        self.outputs: dict[tuple[str, str, int], Any] = {}
        self.parked: list[str] = []
        self.events: list[list[RawEntry]] = [[] for _ in range(partitions)]

    def archived(self, workflow_id: str) -> Snapshot | None:
        """A run as its archived events tell of it."""
        partition = partition_of(workflow_id, len(self.events))
        records = [record(entry) for entry in self.events[partition] if entry.workflow_id == workflow_id]
        return history.fold(records)

    def commit(self, partition: int, before: Place, after: Place, batch: Batch) -> bool:
        """Write a batch; False when the checkpoint is not where the batch began."""
        if self.places[partition] != before:
            return False
        self.places[partition] = after
        self.events[partition] += batch.entries
        self.parked += [f"{parked.entry.workflow_id}: {parked.reason}" for parked in batch.parked]
        for workflow_id, run in batch.runs.items():
            view = run.view()
            assert view is not None
            self.views[workflow_id] = view
            self.tasks.update(run.tasks)
            self.stalls.update({(workflow_id, version): stall for version, stall in run.stalls.items()})
            self.outputs.update({(workflow_id, *key): output for key, output in run.outputs.items()})
        return True


class Projector:
    """Reads every partition's log and writes its rows."""

    def __init__(self, store: WorkflowStore, wire: Wire, database: Database) -> None:
        self._store = store
        self._wire = wire
        self._database = database

    async def run(self) -> None:
        """Project until cancelled."""
        async with asyncio.TaskGroup() as group:
            for partition in range(self._store.partitions):
                group.create_task(self._project(partition))

    async def _project(self, partition: int) -> None:
        while True:
            try:
                await self._batch(partition)
            except StoreUnavailable:
                await asyncio.sleep(0.2)

    async def _batch(self, partition: int) -> None:
        database = self._database
        place = database.places[partition]
        views = dict(database.views)
        entries = await self._store.read_log(partition, place.position, count=50, block_seconds=5.0)
        if not entries:
            return
        try:
            check_dense(partition, place, entries)
        except LogDiverged:
            # Another projector went on from that place meanwhile, and what it read was trimmed.
            if database.places[partition] == place:
                raise
            return
        batch = fold(partition, decode(entries), views, {}, {})
        after = Place(position=entries[-1].entry_id, seq=entries[-1].seq)

        async def commit() -> bool:
            return database.commit(partition, place, after, batch)

        await self._wire.call("commit", commit, lambda done: (partition, after.seq, done))
