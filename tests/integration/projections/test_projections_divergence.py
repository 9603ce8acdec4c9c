"""A log that does not continue where the reader stopped is found out, shown, and stops its own partition only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tailrace.core.partitioning import partition_of
from tailrace.projections.queries import Queries
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project, projecting, until


def fill(log: RunLog, prefix: str = "run") -> None:
    """Runs in both partitions."""
    for number in range(8):
        log.create(f"{prefix}-{number}")
        log.advance(f"{prefix}-{number}")


async def is_diverged(db: Database) -> bool:
    """True when the problem of partition 0 is shown."""
    problem = await db.value("SELECT problem FROM tailrace.partitions WHERE partition = 0")
    return problem is not None and problem.startswith("log-diverged")


def went_back(log: RunLog) -> None:
    """A failover lost the end of the log, and nothing came since."""
    log.go_back(0, by=3)


def went_back_and_grew_again(log: RunLog) -> None:
    """A failover lost the end of the log, and it has grown past the reader since."""
    log.go_back(0, by=3)
    fill(log, "new")


def went_back_and_grew_to_the_same_number(log: RunLog) -> None:
    """The numbers fit, the entry at the end is another one."""
    log.go_back(0, by=3)
    workflow_id = next(f"new-{n}" for n in range(99) if partition_of(f"new-{n}", 2) == 0)
    log.create(workflow_id)
    log.put(workflow_id, 3, "ReportIgnored", b"x")


def was_trimmed_past_the_reader(log: RunLog) -> None:
    """What the reader had not read is gone."""
    fill(log, "new")
    log.trim(0, keep=5)


def is_another_log(log: RunLog) -> None:
    """Restored or made anew, with numbers that happen to fit."""
    log.epoch = "epoch-2"


TEARS = [went_back, went_back_and_grew_again, went_back_and_grew_to_the_same_number, was_trimmed_past_the_reader]


@pytest.mark.parametrize("tear", [*TEARS, is_another_log])
async def test_a_log_that_changed_while_nobody_read(
    postgres_url: str, log: RunLog, db: Database, queries: Queries, tear: Callable[[RunLog], None]
) -> None:
    """At the start the reader asks whether the log goes on; rows of this partition stay as they were."""
    fill(log)
    await project(postgres_url, log, db)
    before = await db.value("SELECT max(seq) FROM tailrace.events WHERE partition = 0")
    tear(log)
    async with projecting(postgres_url, log):
        await until(lambda: is_diverged(db))
        if tear is not is_another_log:
            log.create("elsewhere-1")
            assert partition_of("elsewhere-1", 2) == 1
            await until(lambda: queries.get_workflow("elsewhere-1"))
    assert await db.value("SELECT max(seq) FROM tailrace.events WHERE partition = 0") == before
    shown = {row.partition: row.problem for row in await queries.checkpoints()}
    assert shown[0] is not None
    assert shown[0].startswith("log-diverged: partition 0: ")
    if tear is not is_another_log:
        assert shown[1] is None


@pytest.mark.parametrize("tear", TEARS[:3])
async def test_a_log_that_goes_back_under_its_reader(
    postgres_url: str, log: RunLog, db: Database, tear: Callable[[RunLog], None]
) -> None:
    """Also in the middle of reading, and also when the log stays still afterwards."""
    fill(log)
    async with projecting(postgres_url, log):
        await until(lambda: db.is_caught_up(log))
        tear(log)
        await until(lambda: is_diverged(db))


async def test_a_first_reader_of_a_trimmed_log(postgres_url: str, log: RunLog, db: Database) -> None:
    """An empty read model on a log whose beginning is gone would miss history: it says so."""
    fill(log)
    log.trim(0, keep=3)
    async with projecting(postgres_url, log):
        await until(lambda: is_diverged(db))
    assert await db.value("SELECT count(*) FROM tailrace.events WHERE partition = 0") == 0


async def test_a_log_that_was_trimmed_behind_the_reader(postgres_url: str, log: RunLog, db: Database) -> None:
    """What was read may go: the reader continues, with all of it trimmed, and with all but its own entry."""
    fill(log)
    for keep in (0, 1):
        await project(postgres_url, log, db)
        for partition in (0, 1):
            log.trim(partition, keep=keep)
        fill(log, f"keep-{keep}")
        await project(postgres_url, log, db)
    assert await db.value("SELECT count(*) FROM tailrace.workflows") == 24
    assert await db.value("SELECT count(*) FROM tailrace.partitions WHERE problem IS NOT NULL") == 0


async def test_a_reader_with_nothing_new_on_a_log_that_is_trimmed_away(
    postgres_url: str, log: RunLog, db: Database
) -> None:
    """An empty log whose head is where the reader stopped is in order."""
    fill(log)
    await project(postgres_url, log, db)
    log.trim(0, keep=0)
    reads = log.reads
    async with projecting(postgres_url, log):
        await until(lambda: _reads_on(log, reads))
        assert not await is_diverged(db)


async def _reads_on(log: RunLog, reads: int) -> bool:
    return log.reads > reads + 1


async def test_a_mended_log_is_read_on(postgres_url: str, log: RunLog, db: Database) -> None:
    """A stopped partition is looked at again: when the right log is back, it goes on without a restart."""
    fill(log)
    await project(postgres_url, log, db)
    log.epoch = "epoch-of-a-wrong-server"
    async with projecting(postgres_url, log):
        await until(lambda: is_diverged(db))
        log.epoch = "epoch-1"
        fill(log, "new")
        await until(lambda: db.is_caught_up(log))
        await until(lambda: db.value("SELECT bool_and(problem IS NULL) FROM tailrace.partitions"))


async def test_a_problem_that_a_dead_owner_left_is_cleared(postgres_url: str, log: RunLog, db: Database) -> None:
    """What is shown is the state of now."""
    fill(log)
    await project(postgres_url, log, db)
    await db.execute("UPDATE tailrace.partitions SET problem = 'log-diverged: long ago', problem_at = now()")
    async with projecting(postgres_url, log):
        await until(
            lambda: db.value("SELECT bool_and(problem IS NULL AND problem_at IS NULL) FROM tailrace.partitions")
        )
