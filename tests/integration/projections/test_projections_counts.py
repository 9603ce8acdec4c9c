"""Read models that count: what they say is what anybody would count in the rows, and asking costs the same for any number."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tailrace.core.codec import encode_event
from tailrace.core.commands import ApplyReport, CancelWorkflow, RetryWorkflow
from tailrace.core.errors import InvalidInput
from tailrace.core.events import WorkflowPaused
from tailrace.core.testing.builders import completed, failed, started
from tailrace.projections.queries import Queries
from tailrace.projections.rebuild import rebuild
from tailrace.projections.sql import statements
from tailrace.projections.verify import verify
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project, projecting, until

COUNTED = """
    SELECT agent, worker, (finished_at AT TIME ZONE 'UTC')::date AS day, partition,
        count(*) FILTER (WHERE status = 'completed') AS completed, count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled, sum(deliveries)::bigint AS deliveries,
        count(*) FILTER (WHERE deliveries > 1) AS redelivered, count(started_at) AS started,
        coalesce(sum(extract(epoch FROM started_at - dispatched_at) * 1000000), 0)::bigint AS wait_us,
        coalesce(sum(extract(epoch FROM finished_at - started_at) * 1000000), 0)::bigint AS run_us
    FROM tailrace.tasks WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""

MINUTES = """
    SELECT h.hour + (u.minute - 1) * interval '1 minute' AS minute, sum(u.created) AS created, sum(u.completed) AS completed
    FROM tailrace.hours AS h CROSS JOIN unnest(h.created, h.completed) WITH ORDINALITY AS u (created, completed, minute)
    WHERE u.created <> 0 OR u.completed <> 0 GROUP BY 1 ORDER BY 1"""

COUNTED_MINUTES = """
    SELECT minute, sum(created) AS created, sum(completed) AS completed FROM (
        SELECT date_trunc('minute', created_at) AS minute, 1 AS created, 0 AS completed FROM tailrace.workflows
        UNION ALL
        SELECT date_trunc('minute', completed_at), 0, 1 FROM tailrace.workflows WHERE status = 'completed'
    ) AS parts GROUP BY 1 ORDER BY 1"""


async def check(db: Database) -> None:
    """Everything that is counted is what the rows give when they are counted."""
    assert await db.rows("SELECT * FROM tailrace.agents ORDER BY agent, worker, day, partition") == await db.rows(
        COUNTED
    )
    totals = await db.rows(
        "SELECT status, sum(runs) AS runs FROM tailrace.totals WHERE runs <> 0 GROUP BY 1 ORDER BY 1"
    )
    assert totals == await db.rows("SELECT status, count(*) AS runs FROM tailrace.workflows GROUP BY 1 ORDER BY 1")
    assert await db.rows(MINUTES) == await db.rows(COUNTED_MINUTES)


def work(log: RunLog, *, seconds: float) -> None:
    """Runs that end in all ways, on tasks of several workers, some of them delivered more than once; and some that go on."""
    for number in range(8):
        run = f"run-{number}-{log.now}"
        worker = f"w{number % 3}"
        log.create(run)
        for stage in ("initialization", "scaffolding", "validation"):
            task = f"{run}:{stage}:1"
            log.do(run, ApplyReport(report=started(task, worker=worker, delivery=1 + number % 2)), seconds=seconds)
            if number == 3 and stage == "validation":
                report = failed(task, reason="lint", worker=worker)
                log.do(run, ApplyReport(report=report), seconds=seconds)
                break
            log.do(run, ApplyReport(report=completed(task, worker=worker, delivery=1 + number % 2)), seconds=seconds)
        if number in {0, 5}:
            log.finish(run)
        if number in {2, 5}:
            log.do(run, CancelWorkflow() if number == 2 else RetryWorkflow(from_stage="deployment"), seconds=seconds)
        if number == 7:
            log.finish(run)
            log.do(run, RetryWorkflow(from_stage="monitoring"), seconds=seconds)
            log.finish(run)


@pytest.mark.parametrize("batch_size", [1, 7, 2000])
async def test_counts_are_those_of_the_rows(postgres_url: str, log: RunLog, db: Database, batch_size: int) -> None:
    """However the log is cut into batches, while runs go on over hours and days."""
    for _ in range(3):
        work(log, seconds=3000.0)
        await project(postgres_url, log, db, batch_size=batch_size)
        await check(db)
    assert len(await db.rows("SELECT DISTINCT day FROM tailrace.agents")) > 2
    assert {verdict.projection: verdict.differ for verdict in await verify(postgres_url)} == dict.fromkeys(
        ("totals", "hours", "agents", "workflows", "stages", "tasks", "stalls"), 0
    )


@pytest.mark.parametrize("name", ["agents", "totals", "hours"])
async def test_counts_are_verified_and_built_again(postgres_url: str, log: RunLog, db: Database, name: str) -> None:
    """A number that is wrong is found, and right when the projection was built again; then it goes on."""
    work(log, seconds=500.0)
    await project(postgres_url, log, db)
    column = {"agents": "completed = completed + 1", "totals": "runs = runs + 1", "hours": "created[7] = 50"}[name]
    await db.execute(f"UPDATE tailrace.{name} SET {column}")
    assert [verdict.differ > 0 for verdict in await verify(postgres_url, name)] == [True]
    await rebuild(postgres_url, name)
    await check(db)
    work(log, seconds=500.0)
    await project(postgres_url, log, db)
    await check(db)
    with pytest.raises(InvalidInput):
        await rebuild(postgres_url, "archive")


async def test_a_run_that_is_folded_again_counts_once(postgres_url: str, log: RunLog, db: Database) -> None:
    """A parked run is taken off as it was, and added as it is: once the event that stopped it can be read."""
    work(log, seconds=10.0)
    log.create("parked")
    log.advance("parked")
    entry = log.put("parked", log.version("parked") + 1, "WorkflowPaused", b"nonsense")
    log.follow_poison("parked")
    await project(postgres_url, log, db)
    await check(db)
    assert await db.value("SELECT count(*) FROM tailrace.parked") == 1
    readable = encode_event(WorkflowPaused(), at=log.now)
    await db.execute("UPDATE tailrace.events SET raw = $2 WHERE entry_id = $1", entry.entry_id, readable)
    async with projecting(postgres_url, log):
        await until(lambda: none_parked(db))
    await check(db)
    assert await db.value("SELECT status FROM tailrace.workflows WHERE workflow_id = 'parked'") == "paused"


async def none_parked(db: Database) -> bool:
    """True when every run is applied."""
    return not await db.value("SELECT count(*) FROM tailrace.parked")


async def test_figures_of_workers(postgres_url: str, log: RunLog, db: Database, queries: Queries) -> None:
    """Each worker by itself, those of the last seven days on which anything ended; and all of them together."""
    work(log, seconds=1.0)
    await project(postgres_url, log, db)
    (stats,) = await queries.agent_stats("agent")
    assert [worker.worker for worker in stats.workers] == ["w0", "w1", "w2"]
    for name in ("completed", "failed", "deliveries", "redelivered"):
        assert getattr(stats, name) == sum(getattr(worker, name) for worker in stats.workers)
    assert stats.tasks == await db.value("SELECT count(*) FROM tailrace.tasks")
    assert stats.open == await db.value("SELECT count(*) FROM tailrace.tasks WHERE finished_at IS NULL")
    assert 0 < stats.redelivered < stats.completed
    log.now += 8 * 86_400 * 1_000_000
    work(log, seconds=1.0)
    await project(postgres_url, log, db)
    (later,) = await queries.agent_stats("agent")
    assert (later.completed, later.failed) == (stats.completed, stats.failed)
    assert later.open > stats.open


async def test_the_last_hour(postgres_url: str, log: RunLog, db: Database, queries: Queries) -> None:
    """What began and completed up to an hour ago, and nothing older."""
    now = time.time_ns() // 1000
    log.now = now - 3 * 3600 * 1_000_000
    log.create("old")
    log.finish("old")
    log.now = now - 1800 * 1_000_000
    for number in range(5):
        log.create(f"new-{number}")
    log.finish("new-1")
    log.finish("new-2")
    log.do("new-2", RetryWorkflow(from_stage="monitoring"))
    await project(postgres_url, log, db)
    overview = await queries.overview()
    assert (overview.created_last_hour, overview.completed_last_hour) == (5, 1)
    assert overview.total == 6


@pytest.mark.parametrize("name", ["overview", "agent_stats"])
async def test_asking_reads_no_whole_table(postgres_url: str, log: RunLog, db: Database, name: str) -> None:
    """Neither all runs nor all tasks are looked at, however the planner is minded."""
    work(log, seconds=1.0)
    await project(postgres_url, log, db)
    await db.execute("SET enable_seqscan = off")
    arguments: list[Any] = [] if name == "overview" else [None, 7]
    plan = "\n".join(
        [
            next(iter(row.values()))
            for row in await db.rows(f"EXPLAIN (COSTS off) {statements('queries')[name]}", *arguments)
        ]
    )
    assert "tasks_open" in plan
    for table in ("workflows", "tasks"):
        assert f"Seq Scan on {table}" not in plan, plan
    for index in ("workflows_newest", "workflows_by_status", "tasks_pkey", "workflows_pkey"):
        assert index not in plan, plan
