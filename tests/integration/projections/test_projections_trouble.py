"""Postgres in trouble under load: gone, full, deadlocked, and with transactions that it ends.

Runs go on meanwhile, and never wait for it. Afterwards the archive is the log, and every row is what the archive says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.testing.builders import line
from tailrace.core.workflow.definition import Pipeline
from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections import session as sessions
from tailrace.projections.batch import Batch
from tailrace.projections.migrate import wait_migrated
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import standard_projections
from tailrace.projections.session import Session
from tailrace.projections.verify import verify
from tests.integration.projections.support import Database, open_database, projecting, until
from tests.support.bench import Bench
from tests.support.small_disk import Kind, small_disk
from tests.support.waiting import beside, eventually, pass_server_time

#: How many runs of two stages are started while Postgres is in trouble, and how long all of them may take, in seconds. They
#: take about one; what waited for Postgres would not end at all.
RUNS = 40
LIMIT_SECONDS = 15.0

Harm = Callable[["World", Database], Awaitable[None]]


class World:
    """Runs on a real store with orchestrator and worker, beside a Postgres whose projector logs what it meets."""

    def __init__(self, url: str, bench: Bench, pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
        self.url = url
        self.bench = bench
        self._pipeline = pipeline
        self._caplog = caplog

    @property
    def store(self) -> RedisStore:
        """Where the log is."""
        return self.bench.store

    @property
    def met(self) -> list[str]:
        """What the readers of partitions said of Postgres, in their order."""
        return [
            record.getMessage() for record in self._caplog.records if record.name == "tailrace.projections.partition"
        ]

    async def run_through(self) -> None:
        """Start runs, and see them through, in bounded time."""
        began = time.monotonic()
        runs = [await self.bench.submit(self._pipeline) for _ in range(RUNS)]
        await self.bench.wait_status("completed", *runs, timeout=LIMIT_SECONDS)
        assert time.monotonic() - began < LIMIT_SECONDS

    async def wait_met(self, word: str, times: int = 1) -> None:
        """Until a reader has said this of Postgres."""

        async def said() -> bool:
            return sum(word in message for message in self.met) >= times

        try:
            await eventually(said)
        except AssertionError:
            raise AssertionError(f"{word} was not met: {self.met}") from None

    async def check(self) -> None:
        """All is projected in the end: nothing is lost, nothing came twice, and the rows are the fold of the log."""
        async with open_database(self.url) as db, Queries(self.url) as queries:
            await until(lambda: db.is_caught_up_with(self.store))
            assert await db.value("SELECT count(*) FROM tailrace.parked") == 0
            rows = await db.rows("SELECT partition, seq FROM tailrace.events ORDER BY partition, seq")
            for partition in range(self.store.partitions):
                logged = list(await self.store.read_log(partition, "0-0", count=10_000))
                assert await queries.log(partition, limit=10_000) == logged
                seqs = [row["seq"] for row in rows if row["partition"] == partition]
                assert seqs == list(range(1, len(logged) + 1))
            assert {
                verdict.projection: verdict.differences for verdict in await verify(self.url) if verdict.differ
            } == {}
            statuses = await db.rows("SELECT status, count(*) FROM tailrace.workflows GROUP BY 1")
            assert [row["status"] for row in statuses] == ["completed"]


@asynccontextmanager
async def world_on(url: str, bench: Bench, caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    """An engine that has work to do already; no projector yet."""
    caplog.set_level(logging.DEBUG, logger="tailrace.projections.partition")
    pipeline = (await bench.prepare(line("first", "second"))).pipeline
    async with bench.orchestrating(), bench.working(files=False, concurrency=16):
        yield World(url, bench, pipeline, caplog)


@pytest.fixture
async def world(postgres_url: str, bench: Bench, caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    """One whose Postgres stays up."""
    async with world_on(postgres_url, bench, caplog) as made:
        yield made


@pytest.mark.failure(23)
@pytest.mark.parametrize("away_seconds", [1.0, pytest.param(60.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("way", ["stopped", "killed", "frozen"])
async def test_postgres_away(
    tmp_path: Path, bench: Bench, caplog: pytest.LogCaptureFixture, way: str, away_seconds: float
) -> None:
    """Ended in order, killed or frozen in the middle of the load, for a while: the projector comes back by itself."""
    async with (
        EmbeddedPostgres(tmp_path / "postgres") as server,
        world_on(server.url, bench, caplog) as world,
        projecting(server.url, world.store),
    ):
        await world.run_through()
        if way == "frozen":
            server.pause()
        else:
            await (server.stop() if way == "stopped" else server.kill())
        try:
            await world.run_through()
            if way != "frozen":
                await world.wait_met("Postgres is not available")
            await pass_server_time(world.store, away_seconds)
            await world.run_through()
        finally:
            if way == "frozen":
                server.resume()
            else:
                await server.start()
        await world.run_through()
        await world.check()


@pytest.mark.failure(9)
@pytest.mark.parametrize("kind", ["best", "limited"])
async def test_a_full_disk(tmp_path: Path, bench: Bench, caplog: pytest.LogCaptureFixture, kind: Kind) -> None:
    """Postgres can write nothing more, or ends by it. When there is room again, and it runs, the projector goes on."""
    with small_disk(tmp_path / "disk", 96, kind) as disk:
        async with (
            EmbeddedPostgres(disk.folder / "postgres") as server,
            world_on(server.url, bench, caplog) as world,
            projecting(server.url, world.store),
        ):
            await world.run_through()
            disk.fill(server)
            try:
                await world.run_through()
                await world.wait_met("Postgres is not available")
                await world.run_through()
                print(f"{disk.kind}, the server {'runs' if server.running else 'has ended'}: {world.met}")  # noqa: T201
            finally:
                disk.free(server)
            if disk.kind != "tmpfs":
                await server.kill()  # (It may be about to end, as it could not write its log ahead either.)
            await server.start()
            await world.run_through()
            await world.check()


@asynccontextmanager
async def locking(world: World, table: str = "tailrace.stages") -> AsyncIterator[Database]:
    """Somebody's transaction that holds a table which every batch writes, after its checkpoints."""
    async with open_database(world.url) as other:
        await other.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield other
        await other.execute("ROLLBACK")


async def waiting_sessions(other: Database) -> list[int]:
    """Sessions of readers that wait for a lock in the middle of a batch, by process id."""
    await other.execute("SELECT pg_stat_clear_snapshot()")  # within a transaction all looks give the first answer
    rows = await other.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name LIKE 'tailrace projector %' AND xact_start IS NOT NULL"
    )
    return [row["pid"] for row in rows]


async def deadlock(world: World, other: Database) -> None:
    """The other one takes what a reader has, while that waits for what the other one has: the reader is the victim."""
    before = await other.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    for times in range(1, 4):
        (*_,) = await until_waiting(other)
        # Each checks after a second of waiting, so who began to wait first is ended.
        await other.execute("SELECT 1 FROM tailrace.checkpoints WHERE partition = 0 FOR UPDATE")
        await world.wait_met("DeadlockDetectedError", times)
        await other.execute("ROLLBACK; BEGIN; LOCK TABLE tailrace.stages IN ACCESS EXCLUSIVE MODE")
        await world.run_through()
    async with open_database(world.url) as third:
        await until(
            lambda: third.value(
                "SELECT deadlocks >= $1 FROM pg_stat_database WHERE datname = current_database()", before + 3
            )
        )


async def until_waiting(other: Database) -> list[int]:
    """Wait until both partitions' readers wait, in the middle of a batch."""
    found: list[int] = []

    async def both() -> bool:
        found[:] = await waiting_sessions(other)
        return len(found) == 2

    await until(both)
    return found


async def terminated(world: World, other: Database) -> None:
    """An administrator ends the sessions, again and again."""
    for times in range(1, 4):
        for pid in await until_waiting(other):
            await other.execute("SELECT pg_terminate_backend($1)", pid)
        await world.wait_met("Postgres is not available", times)


async def cancelled(world: World, other: Database) -> None:
    """An administrator ends the statements."""
    for times in range(1, 4):
        for pid in await until_waiting(other):
            await other.execute("SELECT pg_cancel_backend($1)", pid)
        await world.wait_met("QueryCanceledError", times)


@pytest.mark.failure(9)
@pytest.mark.parametrize("harm", [deadlock, terminated, cancelled])
async def test_a_batch_that_is_ended_in_the_middle(world: World, harm: Harm) -> None:
    """A real deadlock, and sessions and statements that somebody ends: each batch is gone as a whole, and comes again."""
    async with projecting(world.url, world.store):
        await world.run_through()
        async with locking(world) as other:
            await world.run_through()
            await harm(world, other)
            await world.run_through()
        await world.check()


@asynccontextmanager
async def no_long_transactions(url: str, seconds: float) -> AsyncIterator[None]:
    """The server ends the sessions of projectors whose transaction takes longer.

    (As `transaction_timeout` does, which servers older than 17 have not.)
    """

    async def end(admin: Database) -> None:
        while True:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'tailrace projector %' AND xact_start < clock_timestamp() - $1::interval",
                timedelta(seconds=seconds),
            )
            await asyncio.sleep(0.02)

    async with open_database(url) as admin, beside(end(admin)):
        yield


@pytest.mark.failure(9)
async def test_a_transaction_that_takes_too_long(world: World) -> None:
    """It waits for somebody's lock, and is ended with its session; so is each that follows, until the lock is gone."""
    async with projecting(world.url, world.store):
        await world.run_through()
        async with locking(world), no_long_transactions(world.url, 0.3):
            await world.run_through()
            await world.wait_met("Postgres is not available", 3)
            await world.run_through()
        await world.check()


@pytest.mark.failure(9)
async def test_a_wait_that_takes_too_long(world: World) -> None:
    """The administrator of the database lets nobody wait for a lock."""
    async with open_database(world.url) as admin:
        name = await admin.value("SELECT current_database()")
        await admin.execute(f"ALTER DATABASE {name} SET lock_timeout = '300ms'")
    async with projecting(world.url, world.store):
        await world.run_through()
        async with locking(world):
            await world.run_through()
            await world.wait_met("LockNotAvailableError", 3)
        await world.check()


class Slow:
    """Not a projection: so much work for each event that a batch of many is over every limit."""

    name = "slow"
    counts = ""
    seconds = 0.005

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def apply(self, session: Session, batch: Batch) -> None:
        """Take time."""
        self.sizes.append(len(batch.entries))
        await session.execute("SELECT pg_sleep($1)", len(batch.entries) * self.seconds)

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """There is nothing to clear."""


@pytest.mark.failure(9)
async def test_batches_fit_into_the_limits(world: World) -> None:
    """What has piled up would be ended for ever, as it is too much for one transaction: it is taken in smaller parts."""
    slow = Slow()
    await world.run_through()
    projections: list[Any] = [*standard_projections(), slow]
    # (To make the tables takes longer than that.)
    await wait_migrated(world.url, instance_id=world.store.instance_id, partitions=world.store.partitions)
    async with (
        no_long_transactions(world.url, 0.4),
        projecting(world.url, world.store, projections=projections),
        open_database(world.url) as db,
    ):
        await until(lambda: _checkpoints(db, world.store, len(projections)))
    assert max(slow.sizes) * slow.seconds > 0.4, "the first batch was too much"
    async with projecting(world.url, world.store):
        await world.check()


@pytest.mark.failure(9)
async def test_a_statement_that_takes_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended by the session's own limit, which is half a minute otherwise."""
    monkeypatch.setattr(sessions, "connect", partial(sessions.connect, statement_seconds=0.3))
    async with projecting(world.url, world.store):
        await world.run_through()
        async with locking(world):
            await world.run_through()
            await world.wait_met("QueryCanceledError: canceling statement due to statement timeout", 3)
        await world.check()


class Pause:
    """Not a projection: a reader that stands still between two statements, for longer than an open transaction may."""

    name = "pause"
    counts = ""

    def __init__(self, times: int) -> None:
        self.times = times

    async def apply(self, session: Session, batch: Batch) -> None:
        """Stand still, while any is left."""
        if self.times:
            self.times -= 1
            while not session.is_closed():  # noqa: ASYNC110  the server hangs up, which nobody is told
                await asyncio.sleep(0.01)

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """There is nothing to clear."""


@pytest.mark.failure(9)
async def test_a_reader_that_stands_still_in_its_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends it after its limit, three seconds otherwise, so that it holds no locks; and nothing of it stays."""
    monkeypatch.setattr(sessions, "IDLE_IN_TRANSACTION_SECONDS", 0.3)
    pause = Pause(times=3)
    projections: list[Any] = list(standard_projections())
    projections.insert(4, pause)
    async with projecting(world.url, world.store, projections=projections):
        await world.run_through()
        await world.wait_met("Postgres is not available", 2)
        await world.run_through()
        async with open_database(world.url) as db:
            await until(lambda: _checkpoints(db, world.store, len(projections)))
    assert pause.times == 0
    async with projecting(world.url, world.store):
        await world.check()


async def _checkpoints(db: Database, store: RedisStore, projections: int) -> bool:
    seqs = await db.projected()
    heads = [(await store.head(partition)).seq for partition in range(store.partitions)]
    return len(seqs) == projections * store.partitions and all(
        seq == heads[partition] for (_, partition), seq in seqs.items()
    )
