"""The read side under pressure: bounded waits, clear errors, and a way back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tailrace.core.errors import ReadModelUnavailable
from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections.pool import Pool
from tailrace.projections.queries import Queries
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, open_database, project, until


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    """Two connections, and a second to wait for one."""
    found = Pool(
        postgres_url, application_name="test pool", instance_id=None, size=2, acquire_seconds=1.0, query_seconds=8.0
    )
    yield found
    await found.close()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres that may be killed and frozen."""
    async with EmbeddedPostgres(tmp_path / "postgres", tcp=True) as server:
        yield server


async def timed(call: Coroutine[Any, Any, Any]) -> tuple[float, Exception | None]:
    """How long a call took, and how it ended."""
    begin = time.monotonic()
    try:
        await call
    except ReadModelUnavailable as error:
        return time.monotonic() - begin, error
    return time.monotonic() - begin, None


async def test_those_who_find_no_connection_wait_their_turn(pool: Pool) -> None:
    """Short queries of many callers all pass through few connections."""
    results = await asyncio.gather(*(timed(pool.fetch("SELECT pg_sleep(0.02)")) for _ in range(30)))
    assert [error for _, error in results if error] == []


async def test_an_exhausted_pool_refuses_in_bounded_time_and_recovers(pool: Pool, db: Database) -> None:
    """Slow queries hold all connections: others wait, then hear why; when they are through, all is as before."""
    slow = [asyncio.create_task(timed(pool.fetch("SELECT pg_sleep(3)"))) for _ in range(2)]
    await until(lambda: _sleeping(db, 2))
    waited = await asyncio.gather(*(timed(pool.fetch("SELECT 1")) for _ in range(5)))
    assert all(error is not None and "busy" in str(error) for _, error in waited)
    assert not any(task.done() for task in slow)
    assert min(seconds for seconds, _ in waited) > 0.9
    assert [error for _, error in await asyncio.gather(*slow)] == [None, None]
    assert [error for _, error in await asyncio.gather(*(timed(pool.fetch("SELECT 1")) for _ in range(5)))] == [
        None
    ] * 5


async def test_a_query_over_its_time_is_ended_by_the_server(postgres_url: str, db: Database) -> None:
    """The caller hears it in time, and no query goes on behind its back."""
    pool = Pool(
        postgres_url, application_name="test pool", instance_id=None, size=2, acquire_seconds=2.0, query_seconds=0.3
    )
    seconds, error = await timed(pool.fetch("SELECT pg_sleep(30)"))
    assert error is not None
    assert 0.2 < seconds < 4
    await until(lambda: _sleeping(db, 0))
    assert (await timed(pool.fetch("SELECT 1")))[1] is None
    await pool.close()


async def test_a_caller_that_goes_away_gives_its_connection_back(pool: Pool, db: Database) -> None:
    """Cancelled in the middle of a query: the pool is whole again, and the query ends by its limit."""
    for number in range(4):
        statement = f"SELECT pg_sleep(4), {number}"
        call = asyncio.create_task(pool.fetch(statement))
        await until(lambda statement=statement: _runs(db, statement))  # type: ignore[misc]  # the loop's value is bound
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await timed(pool.fetch("SELECT 1")))[1] is None
    await until(lambda: _sleeping(db, 0))


async def _runs(db: Database, statement: str) -> bool:
    return bool(
        await db.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = $1", statement)
    )


async def test_a_session_killed_in_the_pool_is_not_noticed(pool: Pool, db: Database) -> None:
    """A dead connection costs nobody an answer."""
    await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.05)") for _ in range(2)))
    await db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test pool'"
        " AND datname = current_database()"
    )
    results = await asyncio.gather(*(timed(pool.fetch("SELECT 1")) for _ in range(6)))
    assert [error for _, error in results if error] == []


async def test_reading_cannot_write(pool: Pool) -> None:
    """Sessions of readers are read-only."""
    with pytest.raises(ReadModelUnavailable, match="read-only"):
        await pool.fetch("CREATE TABLE x (a integer)")


async def _sleeping(db: Database, number: int) -> bool:
    running = await db.value(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'test pool' AND state = 'active' AND query LIKE '%pg_sleep%'"
    )
    return bool(running == number)


@pytest.mark.parametrize(
    "place", ["@127.0.0.1:1/x", "@/x?host=/nowhere", "@192.0.2.1/x"], ids=["tcp", "unix", "silent"]
)
async def test_postgres_that_is_not_there(place: str) -> None:
    """Made without it, every call says in bounded time that it is not there."""
    async with Queries(f"postgresql://u:p{place}") as queries:
        for call in (queries.list_workflows, queries.overview, queries.checkpoints):
            seconds, error = await timed(call())
            assert error is not None
            assert seconds < 5


async def test_postgres_that_comes_later_goes_and_comes_back(own_server: EmbeddedPostgres, log: RunLog) -> None:
    """The read side mends itself, without anybody touching it."""
    log.create("a")
    async with Queries(own_server.url, acquire_seconds=0.5, query_seconds=0.5) as queries:
        with pytest.raises(ReadModelUnavailable):
            await queries.list_workflows()  # nothing was migrated yet
        async with open_database(own_server.url) as db:
            await project(own_server.url, log, db)
        assert len((await queries.list_workflows()).items) == 1
        await own_server.kill()
        with pytest.raises(ReadModelUnavailable):
            await queries.list_workflows()
        await own_server.start()
        assert len((await queries.list_workflows()).items) <= 1
        await until(_succeeds(queries.list_workflows))


def _succeeds(call: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def succeeds() -> bool:
        return (await timed(call()))[1] is None

    return succeeds


async def test_a_frozen_postgres_holds_nobody_up(own_server: EmbeddedPostgres, log: RunLog) -> None:
    """Nothing answers and nothing closes: calls end in bounded time, on open connections and on new ones."""
    log.create("a")
    async with (
        open_database(own_server.url) as db,
        Queries(own_server.url, acquire_seconds=0.5, query_seconds=0.5, size=2) as queries,
    ):
        await project(own_server.url, log, db)
        await queries.list_workflows()
        own_server.pause()
        try:
            results = await asyncio.gather(*(timed(queries.list_workflows()) for _ in range(6)))
        finally:
            own_server.resume()
        assert all(error is not None for _, error in results)
        assert max(seconds for seconds, _ in results) < 6
        await until(_succeeds(queries.list_workflows))
