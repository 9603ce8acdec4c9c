"""Read models compared with the archive, and built anew beside the ones that are read."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tailrace.core.errors import ConfigurationError, InvalidInput, ReadModelUnavailable
from tailrace.projections.archive import row_to_record
from tailrace.projections.beside import Progress
from tailrace.projections.queries import Queries
from tailrace.projections.rebuild import Rebuilt, rebuild, roll_back
from tailrace.projections.verify import verify
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project, projecting, until

NAMES = ("totals", "hours", "agents", "workflows", "stages", "tasks", "stalls")

#: All that a migration says of a table and that a later one may rely on.
SHAPE = """
    SELECT c.relname, c.reloptions, c.relacl::text, array_agg(DISTINCT pg_get_constraintdef(k.oid)) AS constraints,
        array_agg(DISTINCT k.conname) AS names, array_agg(DISTINCT pg_get_indexdef(i.indexrelid)) AS indexes,
        (SELECT array_agg(format('%s %s %s %s', attname, atttypid::regtype, attnotnull, attcollation::regcollation)
                          ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) AS columns
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'tailrace'
    LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid LEFT JOIN pg_index AS i ON i.indrelid = c.oid
    WHERE c.relkind = 'r' GROUP BY c.oid, c.relname, c.reloptions ORDER BY c.relname"""


@pytest.fixture
async def filled(postgres_url: str, log: RunLog, db: Database) -> RunLog:
    """Runs of all ages, one of them parked."""
    for number in range(12):
        log.create(f"run-{number}")
        for _ in range(number):
            log.advance(f"run-{number}")
    log.put("run-3", log.version("run-3") + 1, "TaskStarted", b"nonsense")
    log.follow_poison("run-3")
    log.advance("run-3")
    log.put("sick", 1, "WorkflowCreated", b"nonsense")
    await project(postgres_url, log, db)
    return log


async def test_what_was_projected_is_verified(postgres_url: str, filled: RunLog) -> None:
    """Rows equal the archive, parked runs included, and the way there is told."""
    heard: list[Progress] = []
    verdicts = await verify(postgres_url, on_progress=heard.append)
    assert [(verdict.projection, verdict.differ) for verdict in verdicts] == [(name, 0) for name in NAMES]
    assert {verdict.projection: verdict.rows for verdict in verdicts}["workflows"] == 13
    total = sum(len(filled.entries(partition)) for partition in (0, 1))
    assert heard[-1] == Progress(done=total, total=total, step="comparing")


EXTRA = """
    INSERT INTO tailrace.stages SELECT 'run-5', 'extra', 9, partition, status, weight, attempt, tries
    FROM tailrace.stages WHERE workflow_id = 'run-5' AND ordinal = 0"""
TAMPERING = {
    "different": ("UPDATE tailrace.workflows SET name = 'x' WHERE workflow_id = 'run-5'", "workflows", ""),
    "missing": ("DELETE FROM tailrace.tasks WHERE task_id = 'run-5:scaffolding:1'", "tasks", "run-5:scaffolding:1"),
    "unexpected": (EXTRA, "stages", "extra"),
}


@pytest.mark.parametrize("kind", TAMPERING)
async def test_rows_that_are_not_what_the_archive_says_are_named(
    postgres_url: str, filled: RunLog, db: Database, kind: str
) -> None:
    """Verification finds the row and changes nothing; a rebuild mends it."""
    statement, projection, key = TAMPERING[kind]
    await db.execute(statement)
    for verdict in await verify(postgres_url):
        if verdict.projection != projection:
            assert verdict.differ == 0
        else:
            (difference,) = verdict.differences
            assert (difference.workflow_id, difference.key, difference.kind) == ("run-5", key, kind)
    assert (await verify(postgres_url, projection))[0].differ == 1
    await rebuild(postgres_url, projection)
    assert (await verify(postgres_url, projection))[0].differ == 0


@pytest.mark.parametrize("name", [None, "tasks"])
async def test_a_rebuilt_read_model_is_the_same_down_to_its_indexes(
    postgres_url: str, filled: RunLog, db: Database, name: str | None
) -> None:
    """Rows, columns, constraints, indexes and settings are those from before; nothing is left beside."""
    await db.execute("GRANT SELECT ON ALL TABLES IN SCHEMA tailrace TO pg_monitor, PUBLIC")
    rows, shape = await db.dump(), await db.rows(SHAPE)
    counts = (await rebuild(postgres_url, name)).rows
    assert counts == {table: len(rows[table]) for table in (NAMES if name is None else (name,))}
    assert await db.dump() == rows
    assert await db.rows(SHAPE) == shape
    assert await db.value("SELECT to_regnamespace('tailrace_next') IS NULL")


async def test_runs_go_on_and_are_seen_while_the_read_model_is_rebuilt(
    postgres_url: str, filled: RunLog, db: Database, queries: Queries
) -> None:
    """Readers get an answer, never with less or older than before; projectors lose nothing, and afterwards all goes on."""
    seen: list[int] = []
    versions: dict[str, int] = {}
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            items = (await queries.list_workflows(limit=500)).items
            seen.append(len(items))
            for item in items:
                assert item.version >= versions.get(item.workflow_id, 0), "older than it was"
                versions[item.workflow_id] = item.version
            await asyncio.sleep(0.01)

    async def write() -> None:
        number = 0
        while not stop.is_set():
            filled.create(f"more-{number}")
            filled.advance(f"more-{number}")
            number += 1
            await asyncio.sleep(0.01)

    async with projecting(postgres_url, filled), asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(write())
        for name in (None, "workflows", "stages"):
            await rebuild(postgres_url, name)
        await roll_back(postgres_url, "stages")
        stop.set()
    async with projecting(postgres_url, filled):
        await until(lambda: db.is_caught_up(filled))
    assert seen[0] >= 13
    assert seen == sorted(seen)
    assert {verdict.differ for verdict in await verify(postgres_url)} == {0}


async def test_a_rebuild_that_meets_new_poison_changes_nothing(
    postgres_url: str, filled: RunLog, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that can't apply what older code could must not take the place of its rows."""
    before = await db.dump()

    def broken(row: Any) -> Any:
        if row["workflow_id"] == "run-7" and row["type"] == "StageCompleted":
            raise ValueError("a mistake in this version")
        return row_to_record(row)

    monkeypatch.setattr("tailrace.projections.whole.row_to_record", broken)
    with pytest.raises(ConfigurationError, match=r"run-7.*nothing was changed.*a mistake"):
        await rebuild(postgres_url)
    assert await db.dump() == before
    assert (await verify(postgres_url, "workflows"))[0].differences[0].workflow_id == "run-7"


async def test_a_swap_that_does_not_get_its_locks_is_tried_again(
    postgres_url: str, filled: RunLog, db: Database
) -> None:
    """A reader that holds a table for a while delays the swap, and what came meanwhile is in."""
    holder = await asyncpg.connect(postgres_url)
    try:
        await holder.execute("BEGIN; LOCK TABLE tailrace.workflows IN ACCESS SHARE MODE")
        rebuilding = asyncio.create_task(rebuild(postgres_url))
        await until(
            lambda: db.value(
                "SELECT count(*) > 0 FROM pg_stat_activity"
                " WHERE application_name = 'tailrace rebuild' AND wait_event_type = 'Lock'"
            )
        )
        await until(
            lambda: db.value(
                "SELECT count(*) = 0 FROM pg_stat_activity"
                " WHERE application_name = 'tailrace rebuild' AND wait_event_type = 'Lock'"
            )
        )
        await holder.execute("ROLLBACK")
        await rebuilding
    finally:
        await holder.close()
    assert {verdict.differ for verdict in await verify(postgres_url)} == {0}


async def test_two_rebuilds_at_once(postgres_url: str, filled: RunLog) -> None:
    """The second is told so."""
    results = await asyncio.gather(*(rebuild(postgres_url) for _ in range(3)), return_exceptions=True)
    assert any(isinstance(result, Rebuilt) for result in results)
    refused = [result for result in results if isinstance(result, Exception)]
    assert all(isinstance(error, ConfigurationError) and "under way" in str(error) for error in refused)
    assert {verdict.differ for verdict in await verify(postgres_url)} == {0}


async def test_names_that_are_no_projections(postgres_url: str, filled: RunLog) -> None:
    """The archive can't be rebuilt; anything else is not there."""
    for name in ("archive", "moods"):
        with pytest.raises(InvalidInput, match="workflows, stages, tasks, stalls"):
            await rebuild(postgres_url, name)
        with pytest.raises(InvalidInput, match="workflows, stages, tasks, stalls"):
            await verify(postgres_url, name)


async def test_a_projection_that_is_behind_is_not_called_wrong(postgres_url: str, filled: RunLog, db: Database) -> None:
    """While it is being built it would differ; that is said instead. A rebuild brings it up at once."""
    await db.execute("UPDATE tailrace.checkpoints SET position = '0-0', seq = 0 WHERE projection = 'tasks'")
    with pytest.raises(ReadModelUnavailable, match="tasks is at 0"):
        await verify(postgres_url)
    await rebuild(postgres_url, "tasks")
    assert {verdict.differ for verdict in await verify(postgres_url)} == {0}
    filled.create("later")
    await project(postgres_url, filled, db)
    assert await db.value("SELECT count(*) FROM tailrace.tasks WHERE workflow_id = 'later'") == 1
