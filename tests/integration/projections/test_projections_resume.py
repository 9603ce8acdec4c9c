"""Rebuilds that are killed and go on, that would be wrong and are refused, and that are taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.core.codec import encode_event
from tailrace.core.errors import ConfigurationError, ReadModelUnavailable
from tailrace.core.events import TaskDispatched
from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections import batch, whole
from tailrace.projections.batch import replay_until_problem
from tailrace.projections.beside import Progress
from tailrace.projections.queries import Queries
from tailrace.projections.rebuild import discard, find_traces, rebuild, roll_back
from tailrace.projections.verify import verify
from tests.integration.projections.rebuild_process import BUILD, STRETCH, killed
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, open_database, project, projecting, until

RUNS = 60


@pytest.fixture
async def filled(postgres_url: str, log: RunLog, db: Database) -> RunLog:
    """Runs of all ages; one of them is parked although it could be read."""
    for number in range(RUNS):
        log.create(f"run-{number}")
        for _ in range(number % 8):
            log.advance(f"run-{number}")
    await project(postgres_url, log, db)
    await park(db, "run-7", 4)
    return log


async def park(db: Database, workflow_id: str, version: int) -> None:
    """Let a run be parked as by code that could not read it, and its rows be those from before."""
    await db.execute(
        "INSERT INTO tailrace.parked (partition, seq, entry_id, workflow_id, version, type, traceparent, raw, reason)"
        " SELECT partition, seq, entry_id, workflow_id, version, type, traceparent, raw, 'an older version'"
        " FROM tailrace.events WHERE workflow_id = $1 AND version >= $2",
        workflow_id,
        version,
    )


async def all_right(url: str) -> bool:
    """True when every row is what the archive says."""
    return not any(verdict.differ for verdict in await verify(url))


@pytest.mark.parametrize(("step", "count"), [("", 5), ("indexes", 1), ("comparing", 1)])
async def test_a_killed_rebuild_goes_on(
    postgres_url: str, filled: RunLog, db: Database, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    """It begins behind what was written, takes in what came since, and nothing is left of it afterwards."""
    await killed(postgres_url, step, count)
    assert await db.value("SELECT count(*) FROM tailrace.workflows") == RUNS, "what is read is as before"
    done = await db.value("SELECT done FROM tailrace_next.book")
    total = await db.value("SELECT total FROM tailrace_next.book")
    assert 0 < done < total if not step else done == total
    traces = await find_traces(postgres_url)
    assert (traces.state, traces.done, traces.total) == ("interrupted", done, total)
    for number in range(5):
        filled.create(f"later-{number}")
        filled.advance(f"run-{number * 8}")
    await project(postgres_url, filled, db)
    assert await db.value("SELECT count(*) = 0 FROM tailrace.parked"), "the projector tried it again"

    monkeypatch.setattr(whole, "STRETCH", STRETCH)
    heard: list[Progress] = []
    rebuilt = await rebuild(postgres_url, build=BUILD, on_progress=heard.append)
    assert rebuilt.resumed
    assert (heard[0].done, heard[0].total) == (done, total)
    assert rebuilt.rows["workflows"] == RUNS + 5
    assert await all_right(postgres_url)
    assert await db.value("SELECT to_regnamespace('tailrace_next') IS NULL")


async def test_one_that_is_killed_once_its_tables_are_read_is_over(
    postgres_url: str, filled: RunLog, db: Database
) -> None:
    """There is nothing to go on with: the next one begins anew, and what was replaced can be put back."""
    await db.execute("UPDATE tailrace.workflows SET name = 'as it was' WHERE workflow_id = 'run-5'")
    await killed(postgres_url, "swapped", 1)
    name = "SELECT name FROM tailrace.workflows WHERE workflow_id = 'run-5'"
    assert await db.value(name) != "as it was"
    traces = await find_traces(postgres_url)
    assert traces.state == "none"
    assert "workflows" in traces.kept
    await roll_back(postgres_url, "workflows")
    assert await db.value(name) == "as it was"
    assert not (await rebuild(postgres_url, build=BUILD)).resumed
    assert await all_right(postgres_url)


async def test_a_server_that_is_killed_and_started_again(
    tmp_path: Path, log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had on disk of the rebuild is gone on with; what is read is whole all the time."""
    monkeypatch.setattr(whole, "STRETCH", STRETCH)
    for number in range(RUNS):
        log.create(f"run-{number}")
        log.finish(f"run-{number}")
    async with EmbeddedPostgres(tmp_path / "postgres") as server:
        async with open_database(server.url) as db:
            await project(server.url, log, db)
        killing: list[asyncio.Task[int]] = []

        def kill(progress: Progress) -> None:
            if progress.done > progress.total // 2 and not killing:
                killing.append(asyncio.create_task(server.kill()))

        with pytest.raises(ReadModelUnavailable):
            async with asyncio.timeout(60):
                await rebuild(server.url, build=BUILD, on_progress=kill)
        async with asyncio.timeout(60):
            await killing[0]
            await server.start()
        async with open_database(server.url) as db:
            done = await db.value("SELECT done FROM tailrace_next.book")
        heard: list[Progress] = []
        rebuilt = await rebuild(server.url, build=BUILD, on_progress=heard.append)
        assert heard[0].done == done
        assert rebuilt.rows["stages"] == 7 * RUNS
        assert await all_right(server.url)


async def test_what_another_version_left_is_not_gone_on_with(postgres_url: str, filled: RunLog) -> None:
    """Half of the rows by one code and half by another would be neither's."""
    await killed(postgres_url, "", 5)
    heard: list[Progress] = []
    rebuilt = await rebuild(postgres_url, build="other", on_progress=heard.append)
    assert not rebuilt.resumed
    assert heard[0].done == 0
    assert await all_right(postgres_url)


async def test_a_history_that_was_repaired_meanwhile_is_folded_anew(
    postgres_url: str, filled: RunLog, db: Database
) -> None:
    """What was built may show events that were set aside since."""
    await killed(postgres_url, "indexes", 1)
    await abandon(db)
    assert not (await rebuild(postgres_url, build=BUILD)).resumed


async def abandon(db: Database) -> None:
    """Let an event be set aside."""
    await db.execute(
        "INSERT INTO tailrace.abandoned (partition, seq, entry_id, workflow_id, version, type, traceparent, raw)"
        " VALUES (0, 1, '1-0', 'gone', 1, 'x', '', '')"
    )


async def test_rows_that_are_built_wrongly_are_never_read(
    postgres_url: str, filled: RunLog, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in folding whole runs is found by folding event by event; all stays as it was."""
    before = await db.dump()

    def wrong(workflow_id: str, rows: Any, read: Any) -> Any:
        run, problem = replay_until_problem(workflow_id, rows, read)
        if workflow_id == "run-5" and run.created is not None:
            run.created = replace(run.created, name="wrong")
        return run, problem

    monkeypatch.setattr(batch, "replay_until_problem", wrong)
    with pytest.raises(ConfigurationError, match=r"run-5 was built wrongly in workflows, nothing was changed"):
        await rebuild(postgres_url)
    assert await db.dump() == before
    assert await db.value("SELECT to_regnamespace('tailrace_next') IS NULL")


async def test_a_value_that_cannot_be_written_is_named_with_its_run(
    postgres_url: str, filled: RunLog, db: Database
) -> None:
    """One among many: it is found, and the rebuild changes nothing; for a verification it is a run that differs."""
    stage, run = "scaffolding", "run-16"
    event = TaskDispatched(task_id=f"{run}:{stage}:1", stage=stage, attempt=2**40, agent="a", action="a")
    filled.put(run, filled.version(run) + 1, "TaskDispatched", encode_event(event, at=filled.now))
    await project(postgres_url, filled, db)
    assert await db.value("SELECT count(*) FROM tailrace.parked") == 1
    await db.execute("DELETE FROM tailrace.parked")
    before = await db.dump()
    with pytest.raises(
        ConfigurationError, match=r"run-16 can't be rebuilt by this code, nothing was changed: .*out of range"
    ):
        await rebuild(postgres_url)
    assert await db.dump() == before
    verdicts = {verdict.projection: verdict for verdict in await verify(postgres_url)}
    assert {item.workflow_id for item in verdicts["workflows"].differences} == {"run-16"}


async def test_what_was_replaced_is_put_back_and_brought_up_to_date(
    postgres_url: str, filled: RunLog, db: Database, queries: Queries
) -> None:
    """With a projector that runs, readers who never see less, and a run that is not parked any more."""
    await rebuild(postgres_url)
    assert await db.value("SELECT version FROM tailrace.workflows WHERE workflow_id = 'run-7'") == 3, "it stands still"
    await db.execute("UPDATE tailrace.workflows SET name = 'as it was' WHERE workflow_id = 'run-5'")
    name = "SELECT name FROM tailrace.workflows WHERE workflow_id = 'run-5'"
    assert (await rebuild(postgres_url)).differed["workflows"] >= 1
    assert await db.value(name) != "as it was"
    for number in range(5):
        filled.create(f"later-{number}")
        filled.advance(f"run-{number * 8}")
    async with projecting(postgres_url, filled):
        await until(lambda: db.is_caught_up(filled))
        assert await db.value("SELECT count(*) = 0 FROM tailrace.parked"), "the projector tried it again"
        places = await roll_back(postgres_url)
        assert set(places) == {"workflows", "stages", "tasks", "stalls"}
        assert len((await queries.list_workflows(limit=500)).items) >= RUNS
        await until(lambda: db.is_caught_up(filled))
        assert await db.value(name) == "as it was"
        verdicts = {verdict.projection: verdict for verdict in await verify(postgres_url)}
        assert [item.workflow_id for item in verdicts["workflows"].differences] == ["run-5"]
        assert [name for name, verdict in verdicts.items() if verdict.differ] == ["workflows"]

        await roll_back(postgres_url, "workflows")
        await until(lambda: db.is_caught_up(filled))
    assert await db.value(name) != "as it was"
    assert await all_right(postgres_url)


async def test_what_does_not_fit_any_more_is_not_put_back(postgres_url: str, filled: RunLog, db: Database) -> None:
    """Nothing kept, events set aside since, tables of an older version: each is said, and changes nothing."""
    with pytest.raises(ConfigurationError, match="nothing is kept of any projection"):
        await roll_back(postgres_url)
    await rebuild(postgres_url, "tasks")
    with pytest.raises(ConfigurationError, match="nothing is kept of stages"):
        await roll_back(postgres_url, "stages")
    before = await db.dump()
    await abandon(db)
    with pytest.raises(ConfigurationError, match="a repair set aside"):
        await roll_back(postgres_url, "tasks")
    await db.execute("UPDATE tailrace_kept.versions SET migration = migration - 1")
    with pytest.raises(ConfigurationError, match="of an older version"):
        await roll_back(postgres_url)
    assert await db.dump() == before
    assert (await discard(postgres_url)).kept == ["tasks"]
    assert await db.value("SELECT to_regnamespace('tailrace_kept') IS NULL")
    assert (await discard(postgres_url)).kept == []


@pytest.mark.parametrize("name", ["totals", "hours", "agents"])
async def test_what_counts_is_rebuilt_with_what_it_counts(
    postgres_url: str, log: RunLog, db: Database, name: str
) -> None:
    """A wrong count is told and mended; put back it is wrong again."""
    for number in range(3):
        log.create(f"run-{number}")
        log.finish(f"run-{number}")
    await project(postgres_url, log, db)
    await db.execute(f"DELETE FROM tailrace.{name}")
    assert not await all_right(postgres_url)
    rebuilt = await rebuild(postgres_url, name)
    assert rebuilt.rows.keys() == {name, "tasks" if name == "agents" else "workflows"}
    assert rebuilt.differed[name] == await db.value(f"SELECT count(*) FROM tailrace.{name}") > 0
    assert await all_right(postgres_url)
    assert set(await roll_back(postgres_url)) == rebuilt.rows.keys()
    assert not await all_right(postgres_url)
