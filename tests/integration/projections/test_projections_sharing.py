"""Several projectors on one database: each partition has one reader, and a lost reader is replaced."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.projections import checkpoints, ownership, parking
from tailrace.projections.checkpoints import PartitionLost
from tailrace.projections.migrate import migrate
from tailrace.projections.runtime import Projector, ProjectorOptions, standard_projections
from tailrace.projections.session import session
from tailrace.projections.writer import Writer
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project, projecting, quick, until

NAMES = [projection.name for projection in standard_projections()]


def fill(log: RunLog, prefix: str, runs: int = 10) -> None:
    """Runs in all partitions."""
    for number in range(runs):
        log.create(f"{prefix}-{number}")
        log.advance(f"{prefix}-{number}")


async def shares(db: Database) -> list[int]:
    """How many partitions each projector reads, sorted."""
    owners = list((await db.owners()).values())
    return sorted(owners.count(owner) for owner in set(owners))


@pytest.mark.parametrize(("projectors", "fair"), [(1, [8]), (2, [4, 4]), (3, [2, 3, 3])])
async def test_projectors_share_the_partitions(
    postgres_url: str, db: Database, projectors: int, fair: list[int]
) -> None:
    """As they come, they take their part; together they project everything, once."""
    log = RunLog(partitions=8)
    fill(log, "before", 20)
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def run(name: str) -> None:
            async with projecting(postgres_url, log, name=name):
                await done.wait()

        for number in range(projectors):
            group.create_task(run(f"p{number}"))
        await until(lambda: db.is_caught_up(log))
        await until(lambda: _equals(db, fair))
        fill(log, "after", 20)
        await until(lambda: db.is_caught_up(log))
        done.set()
    together = await db.dump()
    await db.execute("DROP SCHEMA tailrace CASCADE")
    await project(postgres_url, log, db)
    assert await db.dump() == together


async def _equals(db: Database, fair: list[int]) -> bool:
    return await shares(db) == fair


async def test_one_that_stops_hands_over_at_once(postgres_url: str, log: RunLog, db: Database) -> None:
    """Nobody waits for a lease to run out."""
    fill(log, "a")
    options = ProjectorOptions(lease_seconds=60, beat_seconds=0.1)
    async with projecting(postgres_url, log, name="first", options=options):
        await until(lambda: db.is_caught_up(log))
        async with projecting(postgres_url, log, name="second", options=options):
            await until(lambda: _equals(db, [1, 1]))
    assert await db.owners() == {}
    async with projecting(postgres_url, log, name="third", options=options):
        assert await until(lambda: _equals(db, [2])) < 5


async def test_a_killed_projector_is_replaced_within_five_seconds(postgres_url: str, log: RunLog, db: Database) -> None:
    """Leases of shipped length, held by one that says nothing more: a stand-by reads on."""
    fill(log, "a")
    await project(postgres_url, log, db)
    async with session(postgres_url, "tailrace projector dead") as dead:
        await ownership.beat(dead, "dead", {}, lease_seconds=3.0)
        for partition in (0, 1):
            assert await ownership.take(dead, "dead", partition, NAMES, lease_seconds=3.0) is not None
    fill(log, "b")
    async with projecting(postgres_url, log, options=ProjectorOptions()):
        assert await until(lambda: db.is_caught_up(log)) < 5


@pytest.mark.hole("H21")
async def test_a_hanging_projector_is_replaced_within_five_seconds(
    postgres_url: str, log: RunLog, db: Database
) -> None:
    """One that froze in the middle of a batch holds locks: Postgres ends its session, and a stand-by reads on."""
    fill(log, "a")
    await project(postgres_url, log, db)
    async with session(postgres_url, "tailrace projector frozen") as frozen:
        await ownership.beat(frozen, "frozen", {}, lease_seconds=3.0)
        for partition in (0, 1):
            assert await ownership.take(frozen, "frozen", partition, NAMES, lease_seconds=3.0) is not None
        transaction = frozen.transaction()
        await transaction.start()
        await frozen.execute("UPDATE tailrace.checkpoints SET position = position")
        fill(log, "b")
        async with projecting(postgres_url, log, options=ProjectorOptions()):
            assert await until(lambda: db.is_caught_up(log)) < 5


@pytest.mark.hole("H21")
async def test_an_owner_of_the_past_writes_nothing(postgres_url: str, log: RunLog, db: Database) -> None:
    """Its epoch is on no checkpoint any more: the first statement of its batch finds out."""
    fill(log, "a")
    await migrate(postgres_url, instance_id=log.instance_id, partitions=2)
    async with session(postgres_url, "old") as old, session(postgres_url, "new") as new:
        past = await ownership.take(old, "old", 0, NAMES, lease_seconds=0)
        present = await ownership.take(new, "new", 0, NAMES, lease_seconds=60)
        assert past is not None
        assert present is not None
        assert present.epoch == past.epoch + 1
        entries = log.entries(0)
        late = Writer(old, past, await parking.parked_runs(old, 0), views=10)
        with pytest.raises(PartitionLost):
            await late.write(standard_projections(), checkpoints.Place(), entries)
        assert await db.value("SELECT count(*) FROM tailrace.events") == 0
        with pytest.raises(PartitionLost):
            await checkpoints.confirm(old, 0, past.epoch)
        with pytest.raises(PartitionLost):
            await checkpoints.places(old, 0, past.epoch)
        await Writer(new, present, {}, views=10).write(standard_projections(), checkpoints.Place(), entries)
        with pytest.raises(PartitionLost):  # the same stretch again: the checkpoint is not where it was
            await Writer(new, present, {}, views=10).write(standard_projections(), checkpoints.Place(), entries)
    assert await db.value("SELECT count(*) FROM tailrace.events") == len(entries)


@pytest.mark.hole("H21")
async def test_a_lease_that_was_lost_is_noticed(postgres_url: str, log: RunLog, db: Database) -> None:
    """A projector whose partitions were taken stops reading them, and takes them again when they are free."""
    async with projecting(postgres_url, log) as projector:
        await until(lambda: _equals(db, [2]))
        await db.execute(
            "UPDATE tailrace.partitions SET owner = 'robber', epoch = epoch + 1, lease_until = now() + interval '1 s'"
        )
        await db.execute("UPDATE tailrace.checkpoints SET epoch = epoch + 1")
        await until(lambda: _reads_nothing(projector))
        fill(log, "a")
        await until(lambda: db.is_caught_up(log))
        assert projector.partitions == {0, 1}


async def _reads_nothing(projector: Projector) -> bool:
    return not projector.partitions


async def test_projectors_that_come_and_go_under_load(postgres_url: str, db: Database) -> None:
    """Whoever reads, and however often that changes, each event is projected once."""
    log = RunLog(partitions=4)
    async with projecting(postgres_url, log, name="steady", options=quick(batch_size=10)):
        for number in range(5):
            async with projecting(postgres_url, log, name=f"guest-{number}", options=quick(batch_size=10)):
                fill(log, f"r{number}")
                await until(lambda: _equals(db, [2, 2]))
            fill(log, f"s{number}")
        await until(lambda: db.is_caught_up(log))
    disturbed = await db.dump()
    await db.execute("DROP SCHEMA tailrace CASCADE")
    await project(postgres_url, log, db)
    assert await db.dump() == disturbed
