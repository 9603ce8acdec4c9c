"""A read model brought back in line with a log that went back, was trimmed, or is another one."""

from __future__ import annotations

from tailrace.core.partitioning import partition_of
from tailrace.projections.queries import Queries
from tailrace.projections.repair import repair
from tailrace.projections.verify import verify
from tests.integration.projections.run_log import NONSENSE, RunLog
from tests.integration.projections.support import Database, project, projecting, until


def fill(log: RunLog, prefix: str, runs: int = 8) -> None:
    """Runs in both partitions, one event after the other."""
    for number in range(runs):
        log.create(f"{prefix}-{number}")
    for number in range(runs):
        log.advance(f"{prefix}-{number}")


async def is_diverged(db: Database) -> bool:
    """True when the problem of partition 0 is shown."""
    problem = await db.value("SELECT problem FROM tailrace.partitions WHERE partition = 0")
    return problem is not None and problem.startswith("log-diverged")


async def check_all(db: Database, url: str, log: RunLog, queries: Queries) -> None:
    """The rows are what the archive says, and the archive is the log."""
    assert {verdict.differ for verdict in await verify(url)} == {0}
    for partition in range(log.partitions):
        assert await queries.log(partition, limit=5000) == log.entries(partition)
    shown = {row.workflow_id: row.version for row in (await queries.list_workflows(limit=500)).items}
    assert shown == {workflow_id: log.version(workflow_id) for workflow_id in log.ids()}


async def test_a_log_in_order_is_left_alone(postgres_url: str, log: RunLog, db: Database) -> None:
    """Nothing is mended that is whole, also where the log was trimmed behind its reader."""
    fill(log, "run")
    await project(postgres_url, log, db)
    before = await db.dump()
    assert await repair(postgres_url, log) == []
    log.trim(0, keep=2)
    log.trim(1, keep=0)
    assert await repair(postgres_url, log) == []
    assert await db.dump() == before
    fill(log, "new")
    await project(postgres_url, log, db)


async def test_a_log_that_went_back(postgres_url: str, log: RunLog, db: Database, queries: Queries) -> None:
    """What it lost is set aside, its runs are folded again, and reading goes on while the projector runs."""
    fill(log, "run")
    async with projecting(postgres_url, log):
        await until(lambda: db.is_caught_up(log))
        lost = log.entries(0)[-9:]
        log.go_back(0, by=9)
        await until(lambda: is_diverged(db))
        (repaired,) = await repair(postgres_url, log)
        assert (repaired.partition, repaired.abandoned, repaired.missing) == (0, 9, 0)
        assert repaired.runs == sorted({entry.workflow_id for entry in lost})
        fill(log, "new")
        await until(lambda: db.is_caught_up(log))
        await until(lambda: db.value("SELECT bool_and(problem IS NULL) FROM tailrace.partitions"))
    await check_all(db, postgres_url, log, queries)
    kept = await db.rows("SELECT entry_id, raw FROM tailrace.abandoned ORDER BY seq")
    assert [(row["entry_id"], row["raw"]) for row in kept] == [(entry.entry_id, entry.data) for entry in lost]


async def test_a_log_that_went_back_and_grew_past_its_reader(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """The place where both part is found in the middle, with part of the log trimmed as well."""
    fill(log, "run")
    await project(postgres_url, log, db)
    log.go_back(0, by=7)
    fill(log, "new")
    for workflow_id in [run for run in log.ids() if run.startswith("run-") and partition_of(run, 2) == 0]:
        log.advance(workflow_id)
    whole = log.entries(0)
    log.trim(0, keep=len(whole) - 4)
    (repaired,) = await repair(postgres_url, log, 0)
    assert repaired.abandoned == 7
    await project(postgres_url, log, db)
    assert await queries.log(0, limit=5000) == whole
    assert {verdict.differ for verdict in await verify(postgres_url)} == {0}


async def test_a_run_that_is_gone_from_the_log_is_gone_from_the_lists(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """It was acknowledged and lost: the list says what the store says."""
    fill(log, "run")
    workflow_id = next(f"late-{n}" for n in range(99) if partition_of(f"late-{n}", 2) == 0)
    log.create(workflow_id)
    await project(postgres_url, log, db)
    log.go_back(0, by=2)
    await repair(postgres_url, log)
    assert await queries.get_workflow(workflow_id) is None
    assert await queries.tasks(workflow_id) == []
    await project(postgres_url, log, db)
    await check_all(db, postgres_url, log, queries)


async def test_a_log_that_was_trimmed_past_its_reader(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """What nobody has is said to be missing; runs with a hole are parked, all others go on."""
    fill(log, "run")
    await project(postgres_url, log, db)
    read = len(log.entries(0))
    fill(log, "lost")
    holed = next(run for run in log.ids() if partition_of(run, 2) == 0)
    log.advance(holed)
    log.trim(0, keep=0)
    fill(log, "new")
    log.advance(holed)
    async with projecting(postgres_url, log):
        await until(lambda: is_diverged(db))
        (repaired,) = await repair(postgres_url, log)
        assert repaired.abandoned == 0
        assert repaired.missing == log.entries(0)[0].seq - 1 - read
        await until(lambda: db.is_caught_up(log))
    row = await queries.get_workflow(holed)
    assert row is not None
    assert row.parked_reason is not None
    assert "follows version" in row.parked_reason
    shown = {row.workflow_id: row.parked_version for row in (await queries.list_workflows(q="new-")).items}
    assert shown == {f"new-{number}": None for number in range(8)}


async def test_a_log_that_is_another_one_by_its_epoch_alone(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """Restored with all it had: after a repair it is read on."""
    fill(log, "run")
    await project(postgres_url, log, db)
    log.epoch = "epoch-2"
    async with projecting(postgres_url, log):
        await until(lambda: is_diverged(db))
        assert await repair(postgres_url, log) == []
        fill(log, "new")
        await until(lambda: db.is_caught_up(log))
    await check_all(db, postgres_url, log, queries)


async def test_parked_events_that_the_log_lost(postgres_url: str, log: RunLog, db: Database, queries: Queries) -> None:
    """A run that was parked for an event which is no more is as it was before that event."""
    fill(log, "run")
    sick = next(run for run in log.ids() if partition_of(run, 2) == 0)
    log.put(sick, log.version(sick) + 1, "TaskStarted", NONSENSE)
    log.put(sick, log.version(sick) + 2, "TaskStarted", NONSENSE)
    await project(postgres_url, log, db)
    log.go_back(0, by=1)
    await repair(postgres_url, log)
    row = await queries.get_workflow(sick)
    assert row is not None
    assert row.parked_version == log.version(sick) + 1
    log.go_back(0, by=1)
    await repair(postgres_url, log)
    row = await queries.get_workflow(sick)
    assert row is not None
    assert row.parked_version is None
    await project(postgres_url, log, db)
    await check_all(db, postgres_url, log, queries)
