"""Keepers of retention to run in tests, and logs that are filled quickly with whole histories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import RawEntry
from tailrace.projections.port import ForgettingStore
from tailrace.projections.retention import RetentionKeeper, RetentionOptions
from tailrace.projections.runtime import Projector
from tests.integration.projections.run_log import RunLog
from tests.support.waiting import beside, eventually

#: What a store may leave standing that it can't remove at once.
NODE = 100


def prompt(**options: float) -> RetentionOptions:
    """Options for tests: looking often, and waiting for nothing that may be out of order."""
    return RetentionOptions(**{"poll_seconds": 0.05, "run_poll_seconds": 0.0, "settle_seconds": 0.0, **options})  # type: ignore[arg-type]  # counts


@asynccontextmanager
async def keeping(
    url: str, store: ForgettingStore, projector: Projector, **options: float
) -> AsyncIterator[RetentionKeeper]:
    """A keeper beside a projector, as they are in a projector's process."""
    keeper = RetentionKeeper(
        url, store, owner=projector.name, owned=lambda: projector.partitions, options=prompt(**options)
    )
    async with beside(keeper.run()):
        yield keeper


async def look(keeper: RetentionKeeper, rounds: int = 3) -> None:
    """Return when the keeper has looked at everything so often, from its beginning to its end."""
    until = keeper.rounds + rounds + 1

    async def looked() -> bool:
        return keeper.rounds >= until

    await eventually(looked)


class Pump:
    """Fills the log of partition 0 of a store with runs that begin and end, as fast as the server takes them."""

    def __init__(self, store: RedisStore) -> None:
        assert store.partitions == 1
        self._store = store
        self._log = RunLog(partitions=1)
        self._numbers = count(1)
        self.events = 0

    async def pump(self, events: int) -> None:
        """Append at least so many events."""
        until = self.events + events
        while self.events < until:
            run = f"pumped-{next(self._numbers)}"
            self._log.create(run)
            self._log.finish(run)
            entries = self._log.entries(0)
            if len(entries) >= min(2000, until - self.events):
                await self._append(entries)
                self.events += len(entries)
                self._log.forget()

    async def _append(self, entries: Sequence[RawEntry]) -> None:
        part = self._store.keys.partition(0)
        await self._store.client.pipeline(
            [
                *(("XADD", part.log, "*", *_fields(entry)) for entry in entries),
                ("HSET", part.head, "seq", entries[-1].seq),
            ]
        )


def _fields(entry: RawEntry) -> Sequence[str | bytes | int]:
    return (
        *("type", entry.type, "workflow", entry.workflow_id, "version", entry.version, "seq", entry.seq),
        *("traceparent", entry.traceparent, "data", entry.data),
    )
