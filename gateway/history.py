"""The history of one run, from a version on: the archive as far as it goes, then the log, joined without seam.

Versions of a run are dense, so a hole can't hide. What was trimmed from the log while the archive was read has come into
the archive before: so where the log has a hole, the archive is asked again, and only what neither has is told as a `Missing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from tailrace.core.errors import NotFound, ReadModelUnavailable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import RawEntry, WorkflowStore
from tailrace.projections.queries import Queries

ARCHIVE_PAGE: Final = 500
LOG_PAGE: Final = 1000


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a run as a reader of its history needs. `created_at` in microseconds since the epoch."""

    workflow_id: str
    partition: int
    version: int
    ended: bool
    created_at: int
    live: bool


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Versions that can't be shown, both included. `unavailable`: they may be there when Postgres is back."""

    first: int
    last: int
    unavailable: bool


class History:
    """Reads histories from the archive and the log."""

    def __init__(self, store: WorkflowStore, queries: Queries) -> None:
        self._store = store
        self._queries = queries

    async def status(self, workflow_id: str) -> RunStatus:
        """Where the run stands now; raises `NotFound`, `StoreUnavailable`, `ReadModelUnavailable`."""
        partition = partition_of(workflow_id, self._store.partitions)
        (state,) = await self._store.load_states([workflow_id])
        if state is not None:
            return RunStatus(
                workflow_id=workflow_id,
                partition=partition,
                version=state.version,
                ended=state.terminal,
                created_at=state.created_at,
                live=True,
            )
        version = await self._queries.archived_version(workflow_id)
        if not version:
            raise NotFound("workflow", workflow_id)
        return RunStatus(
            workflow_id=workflow_id, partition=partition, version=version, ended=True, created_at=0, live=False
        )

    async def read(
        self, run: RunStatus, after: int, *, entry_id: str = "", until: int | None = None
    ) -> AsyncIterator[Sequence[RawEntry] | Missing]:
        """Pages of the history over version `after`, up to `until` (the run's version in `run` when None).

        `entry_id` is the log entry of version `after`, where it is known: the log is then read from there.
        """
        last = after
        until = run.version if until is None else until
        unavailable = False
        while last < until:
            begin, hole_end = last, until
            try:
                while not unavailable and last < until:
                    page = await self._archived(run.workflow_id, last, min(ARCHIVE_PAGE, until - last))
                    if not page:
                        break
                    yield page
                    last, entry_id = page[-1].version, page[-1].entry_id
            except ReadModelUnavailable:
                unavailable = True
            async for logged in self._logged(run, last, until, entry_id):
                if logged[0].version > last + 1:
                    hole_end = logged[0].version - 1
                    break
                yield logged
                last, entry_id = logged[-1].version, logged[-1].entry_id
            if last == begin:
                yield Missing(first=last + 1, last=hole_end, unavailable=unavailable)
                last = hole_end

    async def _archived(self, workflow_id: str, after: int, limit: int) -> Sequence[RawEntry]:
        """What follows `after` without a hole; what lies behind a hole is left to the log."""
        page = await self._queries.events(workflow_id, after_version=after, limit=limit)
        return [entry for offset, entry in enumerate(page, start=1) if entry.version == after + offset]

    async def _logged(self, run: RunStatus, after: int, until: int, entry_id: str) -> AsyncIterator[list[RawEntry]]:
        """Pages of the run's entries in its partition's log; every page is dense, none is empty."""
        # Entry ids begin with the store's time in milliseconds: nothing of a run is older than the run.
        position = entry_id or f"{max(0, run.created_at // 1000 - 1)}-0"
        while after < until:
            entries = await self._store.read_log(run.partition, position, count=LOG_PAGE)
            page: list[RawEntry] = []
            for entry in entries:
                if entry.workflow_id != run.workflow_id or not after < entry.version <= until:
                    continue
                if page and entry.version != after + 1:
                    yield page
                    page = []
                page.append(entry)
                after = entry.version
            if page:
                yield page
            if len(entries) < LOG_PAGE:
                return
            position = entries[-1].entry_id
