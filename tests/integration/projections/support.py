"""Projectors to run in tests, and looks at what they wrote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from tailrace.core.store.port import WorkflowStore
from tailrace.projections.partition import ReaderOptions
from tailrace.projections.port import LogSource, Projection
from tailrace.projections.runtime import Projector, ProjectorOptions, standard_projections
from tests.integration.projections.run_log import RunLog

PATIENCE_SECONDS = 20.0

#: Everything that is derived. What tells of a moment of the test, not of the log, is left out.
TABLES = {
    "events": "partition, seq, entry_id, workflow_id, version, type, at, data, raw, traceparent",
    "workflows": "*",
    "stages": "*",
    "tasks": "*",
    "stalls": "*",
    "agents": "*",
    "totals": "*",
    "hours": "*",
    "parked": "partition, seq, entry_id, workflow_id, version, type, traceparent, raw, reason",
}


class Database:
    """Questions to the database under test, over a session of its own."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection

    async def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Rows as dicts."""
        return [dict(row) for row in await self.connection.fetch(sql, *values)]

    async def value(self, sql: str, *values: Any) -> Any:
        """One value."""
        return await self.connection.fetchval(sql, *values)

    async def execute(self, sql: str, *values: Any) -> None:
        """A statement."""
        await self.connection.execute(sql, *values)

    async def dump(self) -> dict[str, list[str]]:
        """All that is derived from the log, comparable as a whole."""
        found = {}
        for table, columns in TABLES.items():
            rows = await self.connection.fetch(f"SELECT {columns} FROM tailrace.{table}")
            # (A count that has gone back to 0 says the same as one that is not there.)
            found[table] = sorted(repr(sorted(dict(row).items())) for row in rows if row.get("runs") != 0)
        return found

    async def projected(self) -> dict[tuple[str, int], int]:
        """The `seq` of each projection in each partition."""
        rows = await self.connection.fetch("SELECT projection, partition, seq FROM tailrace.checkpoints")
        return {(row["projection"], row["partition"]): row["seq"] for row in rows}

    async def is_caught_up(self, log: RunLog) -> bool:
        """True when every projection is at the end of every partition."""
        if await self.value("SELECT to_regclass('tailrace.checkpoints') IS NULL"):
            return False
        seqs = await self.projected()
        heads = [(await log.head(partition)).seq for partition in range(log.partitions)]
        return bool(seqs) and all(seq == heads[partition] for (_, partition), seq in seqs.items())

    async def is_caught_up_with(self, store: WorkflowStore) -> bool:
        """True when every projection is where the store's log ends."""
        if await self.value("SELECT to_regclass('tailrace.checkpoints') IS NULL"):
            return False
        seqs = await self.projected()
        heads = [(await store.head(partition)).seq for partition in range(store.partitions)]
        return len(seqs) == len(standard_projections()) * store.partitions and all(
            seq == heads[partition] for (_, partition), seq in seqs.items()
        )

    async def owners(self) -> dict[int, str]:
        """Who reads which partition; nothing where the lease ran out."""
        rows = await self.connection.fetch("SELECT partition, owner FROM tailrace.partitions WHERE lease_until > now()")
        return {row["partition"]: row["owner"] for row in rows}


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """A session that reads JSON as values."""
    connection = await asyncpg.connect(url)
    try:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=str, decoder=msgspec.json.decode, format="text"
            )
        yield Database(connection)
    finally:
        await connection.close()


async def until(condition: Callable[[], Awaitable[object]], *, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait for a condition in the database, which nobody announces; gives the seconds it took."""
    begin = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  the condition is in the database
            await asyncio.sleep(0.005)
    return time.monotonic() - begin


def quick(**options: Any) -> ProjectorOptions:
    """Options for tests: shorter beats and rechecks, the rest as shipped."""
    reader = {"linger_seconds": 0.0, "confirm_seconds": 0.1, "recheck_seconds": 0.1, **options}
    return ProjectorOptions(beat_seconds=0.1, reader=ReaderOptions(**reader))


@asynccontextmanager
async def projecting(
    url: str,
    log: LogSource,
    *,
    name: str = "p",
    projections: Sequence[Projection] | None = None,
    options: ProjectorOptions | None = None,
) -> AsyncIterator[Projector]:
    """A projector that runs while the block does, and whose errors are those of the test."""
    projector = Projector(url, log, name=name, projections=projections, options=options or quick())
    running = asyncio.create_task(projector.run())
    try:
        ready = asyncio.create_task(projector.wait_ready())
        await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS)
        ready.cancel()
        if running.done():
            running.result()
        yield projector
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def project(url: str, log: RunLog, database: Database, **options: Any) -> None:
    """Project all that is in the log, and stop."""
    async with projecting(url, log, options=quick(**options)):
        await until(lambda: database.is_caught_up(log))
