"""Nothing is lost and nothing comes twice, wherever a session, a server or a reply is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections.batch import Batch
from tailrace.projections.runtime import standard_projections
from tailrace.projections.session import Session
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, open_database, project, projecting, quick, until

KILL = "SELECT pg_terminate_backend(pg_backend_pid())"
DEADLOCK = "DO $$ BEGIN RAISE EXCEPTION 'taken as the victim' USING ERRCODE = '40P01'; END $$"
CANCEL = "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)"


class Sabotage:
    """Not a projection: it stands between two of them, and does harm to the session a few times."""

    name = "sabotage"
    counts = ""

    def __init__(self, harm: str, times: int = 3) -> None:
        self.harm = harm
        self.times = times

    async def apply(self, session: Session, batch: Batch) -> None:
        """Do harm, while any is left."""
        if self.times:
            self.times -= 1
            await session.execute(self.harm)

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """There is nothing to clear."""


def fill(log: RunLog, runs: int = 6) -> None:
    """Runs of all ages."""
    for number in range(runs):
        log.create(f"run-{number}")
        for _ in range(number):
            log.advance(f"run-{number}")


async def expected(url: str, log: RunLog, db: Database) -> dict[str, list[str]]:
    """What the database holds after an undisturbed projection; the schema is dropped again."""
    await project(url, log, db)
    rows = await db.dump()
    await db.execute("DROP SCHEMA tailrace CASCADE")
    return rows


@pytest.mark.failure(9)
@pytest.mark.parametrize("harm", [KILL, DEADLOCK, CANCEL], ids=["killed", "deadlock", "cancelled"])
@pytest.mark.parametrize("place", range(6))
async def test_a_session_lost_between_any_two_statements(
    postgres_url: str, log: RunLog, db: Database, harm: str, place: int
) -> None:
    """The transaction is gone as a whole, and the next one begins at the checkpoint."""
    fill(log)
    undisturbed = await expected(postgres_url, log, db)
    projections = list(standard_projections())
    sabotage = Sabotage(harm)
    projections.insert(place, sabotage)
    async with projecting(postgres_url, log, projections=projections, options=quick(batch_size=7)):
        await until(lambda: db.is_caught_up(log))
    assert sabotage.times == 0
    assert await db.dump() == undisturbed


@pytest.mark.parametrize("harm", ["PERFORM pg_terminate_backend(pg_backend_pid())", "RAISE deadlock_detected"])
async def test_a_session_lost_in_its_commit(postgres_url: str, log: RunLog, db: Database, harm: str) -> None:
    """A commit that fails is no commit."""
    fill(log)
    undisturbed = await expected(postgres_url, log, db)
    await project(postgres_url, RunLog(), db)
    # A sequence is not rolled back: the harm is done to the first three commits only.
    await db.execute(f"""
        CREATE SEQUENCE harm;
        CREATE FUNCTION harm() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF nextval('harm') <= 3 THEN {harm}; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER harm AFTER INSERT ON tailrace.events DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION harm()""")
    await project(postgres_url, log, db, batch_size=7)
    assert await db.value("SELECT last_value > 3 FROM harm")
    assert await db.dump() == undisturbed


@asynccontextmanager
async def cutting_proxy(port: int, cuts: int) -> AsyncIterator[tuple[int, list[str]]]:
    """A way to a Postgres that swallows the answers to the first `cuts` commits, and then hangs up."""
    swallowed: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        cut = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(65536):
                if b"COMMIT;" in data and b"SELECT" not in data and len(swallowed) < cuts:
                    cut.set()
                upstream_writer.write(data)
                await upstream_writer.drain()

        async def back() -> None:
            while data := await upstream_reader.read(65536):
                if cut.is_set():
                    swallowed.append(repr(data))  # the server has committed: this is its answer
                    return
                writer.write(data)
                await writer.drain()

        tasks = {asyncio.create_task(there()), asyncio.create_task(back())}
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in (writer, upstream_writer):
            stream.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], swallowed


async def test_a_commit_whose_answer_is_lost(tmp_path: Path, log: RunLog) -> None:
    """Committed, but the projector can't know: it reads its checkpoint again, and applies nothing twice."""
    fill(log)
    async with EmbeddedPostgres(tmp_path / "postgres", tcp=True) as server, open_database(server.url) as db:
        undisturbed = await expected(server.url, log, db)
        await project(server.url, RunLog(), db)
        assert server.port is not None
        async with cutting_proxy(server.port, cuts=4) as (port, swallowed):
            through = server.url.replace(f":{server.port}/", f":{port}/")
            assert urlsplit(through).port == port
            async with projecting(through, log, options=quick(batch_size=7)):
                await until(lambda: db.is_caught_up(log))
        assert len(swallowed) == 4
        assert all("COMMIT" in answer for answer in swallowed)
        assert await db.dump() == undisturbed


async def test_sessions_killed_at_random_while_the_log_grows(postgres_url: str, log: RunLog, db: Database) -> None:
    """Whatever session dies at whatever time: in the end the rows are those of an undisturbed projection."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  shown when the test fails
    chance = random.Random(seed)
    async with projecting(postgres_url, log, options=quick(batch_size=20)):
        for number in range(25):
            log.create(f"run-{number}")
            for _ in range(chance.randrange(8)):
                log.advance(f"run-{number}")
            reads = log.reads
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'tailrace projector%' AND random() < 0.5"
            )
            await until(lambda reads=reads: _has_read(log, reads))  # type: ignore[misc]  # the loop's value is bound
        await until(lambda: db.is_caught_up(log))
    disturbed = await db.dump()
    assert await expected(postgres_url, log, db) == disturbed


async def _has_read(log: RunLog, reads: int) -> bool:
    return log.reads > reads


async def test_postgres_killed_and_started_again(tmp_path: Path, log: RunLog) -> None:
    """Asynchronous commits may be lost with the server; then their checkpoints are, too."""
    async with EmbeddedPostgres(tmp_path / "postgres") as server:
        async with projecting(server.url, log, options=quick(batch_size=20)):
            for round_ in range(3):
                for number in range(5):
                    log.create(f"run-{round_}-{number}")
                    log.finish(f"run-{round_}-{number}")
                async with open_database(server.url) as db:
                    await until(lambda db=db: _some_are_in(db, log))  # type: ignore[misc]  # the loop's value is bound
                await server.kill()
                await server.start()
            async with open_database(server.url) as db:
                await until(lambda: db.is_caught_up(log))
                disturbed = await db.dump()
        async with open_database(server.url) as db:
            assert await expected(server.url, log, db) == disturbed


async def _some_are_in(db: Database, log: RunLog) -> bool:
    if await db.value("SELECT to_regclass('tailrace.events') IS NULL"):
        return False
    return bool(await db.value("SELECT count(*) > 0 FROM tailrace.events WHERE workflow_id = $1", log.ids()[-5]))


async def test_the_store_away_for_a_while(postgres_url: str, log: RunLog, db: Database) -> None:
    """The reader says so, and goes on from its checkpoint when the store is back."""
    fill(log)
    async with projecting(postgres_url, log):
        await until(lambda: db.is_caught_up(log))
        log.cut(down=True)
        await until(lambda: db.value("SELECT bool_and(problem LIKE 'store-unreachable%') FROM tailrace.partitions"))
        log.cut(down=False)
        fill_more = [f"more-{number}" for number in range(4)]
        for workflow_id in fill_more:
            log.create(workflow_id)
        await until(lambda: db.is_caught_up(log))
        await until(lambda: db.value("SELECT bool_and(problem IS NULL) FROM tailrace.partitions"))
    assert await db.value("SELECT count(*) FROM tailrace.workflows WHERE workflow_id LIKE 'more-%'") == 4


@pytest.mark.hole("H34")
async def test_what_moved_is_confirmed_by_a_synchronous_commit(postgres_url: str, log: RunLog, db: Database) -> None:
    """Soon after the last event, the confirmed position is that of the checkpoint: trimming may go so far."""
    fill(log)
    async with projecting(postgres_url, log):
        await until(lambda: db.is_caught_up(log))
        await until(
            lambda: db.value(
                "SELECT bool_and(confirmed_seq = seq AND confirmed_position = position) FROM tailrace.checkpoints"
            )
        )


@pytest.mark.hole("H34")
async def test_batches_commit_without_waiting_for_the_disk(postgres_url: str, log: RunLog, db: Database) -> None:
    """The sessions that write have `synchronous_commit` off, and limits on everything that could wait."""
    found: list[dict[str, str]] = []

    class Look(Sabotage):
        """Looks at the session's settings from inside a batch."""

        async def apply(self, session: Session, batch: Batch) -> None:
            found.append(
                {row["name"]: row["setting"] for row in await session.fetch("SELECT name, setting FROM pg_settings")}
            )

    fill(log)
    async with projecting(postgres_url, log, projections=[*standard_projections(), Look("")]):
        await until(lambda: db.is_caught_up(log))
    assert found[0]["synchronous_commit"] == "off"
    assert found[0]["application_name"].startswith("tailrace projector")
    assert 0 < int(found[0]["idle_in_transaction_session_timeout"]) <= 5000
    assert 0 < int(found[0]["statement_timeout"]) <= 60000
    assert int(found[0]["tcp_user_timeout"]) >= 0
