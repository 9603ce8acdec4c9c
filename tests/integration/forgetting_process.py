"""A projector with its keeper of retention, to be killed: `forgetting_process.py REDIS_URL NAMESPACE POSTGRES_URL WHERE`.

WHERE is `before` or `after`: it kills itself, the second time that it lets runs go, before or after the store did so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Head
from tailrace.core.store.retention import EndedRun, LogPlace
from tailrace.projections.retention import RetentionKeeper, RetentionOptions
from tailrace.projections.runtime import Projector, ProjectorOptions

#: Runs let go of at a time.
RUNS = 2


class Doomed:
    """A store in which this process does not live through its second step."""

    def __init__(self, store: RedisStore, where: str) -> None:
        self._store = store
        self._where = where
        self._steps = 0

    async def now(self) -> int:
        """The store's clock."""
        return await self._store.now()

    async def head(self, partition: int) -> Head:
        """The end of a log."""
        return await self._store.head(partition)

    async def trim_log(self, partition: int, first: LogPlace, *, count: int) -> int:
        """As the store does."""
        return await self._store.trim_log(partition, first, count=count)

    async def expire_runs(self, partition: int, runs: Sequence[EndedRun]) -> int:
        """As the store does, once."""
        self._steps += 1
        if self._steps == 2 and self._where == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        expired = await self._store.expire_runs(partition, runs)
        if self._steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return expired


async def main(redis_url: str, namespace: str, postgres_url: str, where: str) -> None:
    """Project and forget until killed."""
    store = await RedisStore.open(RedisSettings(url=redis_url), namespace=namespace, create=False)
    projector = Projector(
        postgres_url, store, name="doomed", options=ProjectorOptions(lease_seconds=0.6, beat_seconds=0.1)
    )
    keeper = RetentionKeeper(
        postgres_url,
        Doomed(store, where),
        owner=projector.name,
        owned=lambda: projector.partitions,
        options=RetentionOptions(
            run_seconds=0.0, settle_seconds=0.0, poll_seconds=0.05, run_poll_seconds=0.0, run_count=RUNS, tail_events=0
        ),
    )
    await asyncio.gather(projector.run(), keeper.run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
