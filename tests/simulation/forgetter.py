"""What a projector does about retention, without Postgres: trims logs, and has runs forgotten that ended some time ago.

It knows what is archived, and no more: whether a run has been retried meanwhile the store has to find out. It waits until
nobody is at work for a run any more, which the days that a real one waits do as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Final

from tailrace.core.clock import to_us
from tailrace.core.errors import StoreUnavailable
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.retention import EndedRun, LogPlace, Retention
from tailrace.core.testing.simulation import Wire
from tests.simulation.projector import Database

_POLL_SECONDS: Final = 0.5
#: How many archived events stay in a log.
_TAIL: Final = 5


class Forgetter:
    """Forgets what `database` has, of runs that ended at least `after_seconds` ago."""

    def __init__(
        self, data: MemoryBackend, retention: Retention, wire: Wire, database: Database, *, after_seconds: float
    ) -> None:
        self._data = data
        self._retention = retention
        self._wire = wire
        self._database = database
        self._after_us = to_us(after_seconds)

    async def run(self, random: Random) -> None:
        """Forget until cancelled; between what it reads and what it does about it anything may happen."""
        while True:
            await asyncio.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))
            try:
                for partition in range(len(self._data.partitions)):
                    await self._trim(partition)
                    await self._expire(partition, random.choice((0.0, 0.0, 1.0, 5.0)))
            except StoreUnavailable:
                continue

    async def _trim(self, partition: int) -> None:
        events = self._database.events[partition]
        if len(events) > _TAIL:
            first = LogPlace(entry_id=events[-_TAIL].entry_id, seq=events[-_TAIL].seq)
            await self._wire.call(
                "trim_log",
                lambda: self._retention.trim_log(partition, first, count=20),
                lambda removed: (partition, removed),
            )

    async def _expire(self, partition: int, later: float) -> None:
        runs = list(self._ended(partition))
        if runs:
            await asyncio.sleep(later)
            await self._wire.call(
                "expire_runs",
                lambda: self._retention.expire_runs(partition, runs),
                lambda expired: (partition, *((run.workflow_id, run.version) for run in runs), expired),
            )

    def _ended(self, partition: int) -> Iterator[EndedRun]:
        data = self._data.partitions[partition]
        now = self._data.clock.now()
        at_work = {name.workflow_id for stream in data.streams.values() for name in stream.names.values()}
        at_work |= {raw.workflow_id for raw in data.reports.entries.values()}
        for workflow_id, view in self._database.views.items():
            run = data.runs.get(workflow_id)
            if run is None or run.is_tombstone or workflow_id in at_work or view.state.completed_at is None:
                continue
            if now - view.state.completed_at >= self._after_us:
                yield EndedRun(workflow_id=workflow_id, version=view.state.version)
