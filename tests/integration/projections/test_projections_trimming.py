"""Trimming: the store's log stays short, all of it is archived, and nobody who reads it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tailrace.core.commands import PauseWorkflow, ResumeWorkflow
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.store import MemoryStore
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.builders import workflow_id_in
from tailrace.core.testing.runner import Runner
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.queries import Queries
from tests.integration.projections.retaining import NODE, Pump, keeping, look
from tests.integration.projections.run_log import SEVEN
from tests.integration.projections.support import Database, projecting, quick, until
from tests.support.waiting import beside

Store = MemoryStore | RedisStore


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis_store: RedisStore) -> AsyncIterator[Store]:
    """Both back ends, with two partitions."""
    if request.param == "redis":
        yield redis_store
        return
    memory = MemoryBackend()
    async with beside(turning(memory)):
        yield memory.store()


async def turning(memory: MemoryBackend) -> None:
    """Let the clock in memory go on as the wall's does, so that reads without anything to read end."""
    while True:
        await asyncio.sleep(0.02)
        memory.clock.advance(0.02)


@pytest.fixture
async def single(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[RedisStore]:
    """A store with one partition."""
    store = await RedisStore.open(RedisSettings(url=redis_server.url), namespace=namespace, partitions=1)
    yield store
    await store.aclose()


async def written(store: Store, runner: Runner, events: int) -> None:
    """Let each partition have some hundred events more."""
    for partition in range(store.partitions):
        run = workflow_id_in(partition, store.partitions, number=(await store.head(partition)).seq + 1)
        await runner.create(run)
        for _ in range(events // 2):
            await runner.carry_out(run, PauseWorkflow())
            await runner.carry_out(run, ResumeWorkflow())


async def logged(store: Store, partition: int) -> list[RawEntry]:
    """What is in a log."""
    return list(await store.read_log(partition, "0-0", count=100_000))


async def whole(queries: Queries, partition: int) -> list[RawEntry]:
    """What is archived of a log."""
    found: list[RawEntry] = []
    while page := await queries.log(partition, found[-1].seq if found else 0):
        found += page
    return found


async def trimmed_to(store: Store, tail: int) -> bool:
    """True when no log is longer than the tail."""
    lengths = [len(await logged(store, partition)) for partition in range(store.partitions)]
    return max(lengths) <= tail + NODE + 1


async def test_the_log_is_trimmed_to_its_tail(postgres_url: str, queries: Queries, store: Store) -> None:
    """Again and again; archive and log together are the whole history, and the tail is left."""
    runner = Runner(store, SEVEN)
    await runner.prepare()
    async with projecting(postgres_url, store) as projector, keeping(postgres_url, store, projector, tail_events=50):
        for _ in range(3):
            await written(store, runner, 300)
            await until(lambda: trimmed_to(store, 50))
        await until(lambda: archived(queries, store))
    for partition in range(store.partitions):
        left, kept = await logged(store, partition), await whole(queries, partition)
        assert len(left) > 50
        assert [entry.seq for entry in kept] == list(range(1, len(kept) + 1))
        assert kept[-len(left) :] == left
        assert (await store.head(partition)).seq == len(kept)


async def test_a_projector_goes_on_with_a_trimmed_log(
    postgres_url: str, db: Database, queries: Queries, store: Store
) -> None:
    """Stopped, and started again on a log that begins where it stopped: nothing is missing, and nothing diverged."""
    runner = Runner(store, SEVEN)
    await runner.prepare()
    async with projecting(postgres_url, store) as projector, keeping(postgres_url, store, projector, tail_events=0):
        await written(store, runner, 300)
        await until(lambda: trimmed_to(store, 0))
    await written(store, runner, 100)
    async with projecting(postgres_url, store, name="next") as projector:
        await until(lambda: archived(queries, store))
        assert await db.value("SELECT count(*) FROM tailrace.partitions WHERE problem IS NOT NULL") == 0


async def archived(queries: Queries, store: Store) -> bool:
    """True when the archive is where the logs end."""
    for partition in range(store.partitions):
        head = await store.head(partition)
        if not await queries.log(partition, head.seq - 1):
            return False
    return True


async def confirmed(db: Database, store: Store) -> bool:
    """True when all that is in the logs is on disk for every projection."""
    heads = [(await store.head(partition)).seq for partition in range(store.partitions)]
    rows = await db.rows("SELECT partition, min(confirmed_seq) AS seq FROM tailrace.checkpoints GROUP BY partition")
    return {row["partition"]: row["seq"] for row in rows} == dict(enumerate(heads))


async def test_what_is_not_confirmed_stays(postgres_url: str, db: Database, redis_store: RedisStore) -> None:
    """Rows that a crash of Postgres may take back are no reason to forget what they were made from."""
    runner = Runner(redis_store, SEVEN)
    await runner.prepare()
    options = quick(confirm_seconds=3600.0)
    async with projecting(postgres_url, redis_store, options=options) as projector:
        async with keeping(postgres_url, redis_store, projector, tail_events=0) as keeper:
            await written(redis_store, runner, 300)
            await until(lambda: caught_up(db, redis_store))
            await look(keeper)
        for partition in range(redis_store.partitions):
            assert (await logged(redis_store, partition))[0].seq == 1


async def caught_up(db: Database, store: Store) -> bool:
    """True when all projections are where the logs end."""
    heads = dict(enumerate([(await store.head(partition)).seq for partition in range(store.partitions)]))
    return all(seq == heads[partition] for (_, partition), seq in (await db.projected()).items())


@pytest.mark.parametrize(
    ("behind", "moved", "held"),
    [(150, "1 second", True), (150, "1 day", False), (400, "1 second", False)],
    ids=["moves", "stands", "far-behind"],
)
async def test_a_reader_with_a_position_is_waited_for(
    postgres_url: str, db: Database, single: RedisStore, behind: int, moved: str, held: bool
) -> None:
    """While it moves and is not ten tails behind; else the archive has what it will read, and the log stays short."""
    await Pump(single).pump(600)
    async with projecting(postgres_url, single) as projector:
        await until(lambda: confirmed(db, single))
        seq = (await single.head(0)).seq - behind
        await db.execute(
            "INSERT INTO tailrace.positions (reader, partition, position, seq, updated_at)"
            " VALUES ('spans', 0, '1-0', $1, now() - $2::text::interval)",
            seq,
            moved,
        )
        async with keeping(postgres_url, single, projector, tail_events=20, reader_seconds=3600.0) as keeper:
            await until(lambda: begins_before(single, seq - 20 if held else seq + behind - 200 + NODE))
            await look(keeper)
        begin = (await logged(single, 0))[0].seq
    assert begin <= seq - 20 if held else begin > seq - 20


async def begins_before(store: Store, seq: int) -> bool:
    """True when the log was trimmed, to about this number."""
    return (await logged(store, 0))[0].seq > max(seq - NODE - 200, 1)


async def test_a_partition_that_stands_still_is_not_trimmed(
    postgres_url: str, db: Database, single: RedisStore
) -> None:
    """Where the log and the read model differ, somebody has to look at both."""
    await Pump(single).pump(600)
    async with projecting(postgres_url, single) as projector:
        await until(lambda: confirmed(db, single))
        await single.client.command("HINCRBY", single.keys.partition(0).head, "seq", -5)
        await until(lambda: stands(db))
        async with keeping(postgres_url, single, projector, tail_events=0) as keeper:
            await look(keeper)
    assert (await logged(single, 0))[0].seq == 1


async def test_a_log_that_is_not_what_was_archived_is_not_trimmed(
    postgres_url: str, db: Database, redis_store: RedisStore
) -> None:
    """Somebody removed the entry that was to stay first: what is before it stays, and the other partition is trimmed."""
    runner = Runner(redis_store, SEVEN)
    await runner.prepare()
    await written(redis_store, runner, 300)
    async with projecting(postgres_url, redis_store) as projector:
        await until(lambda: confirmed(db, redis_store))
        first = (await logged(redis_store, 0))[-51]
        await redis_store.client.command("XDEL", redis_store.keys.partition(0).log, first.entry_id)
        async with keeping(postgres_url, redis_store, projector, tail_events=50) as keeper:
            await look(keeper)
    assert (await logged(redis_store, 0))[0].seq == 1
    assert (await logged(redis_store, 1))[0].seq > 1


async def stands(db: Database) -> bool:
    """True when a partition has a problem."""
    return bool(await db.value("SELECT count(*) FROM tailrace.partitions WHERE problem IS NOT NULL"))


async def test_the_keeper_survives_both_servers(
    postgres_url: str, db: Database, single: RedisStore, queries: Queries
) -> None:
    """Its session is cut again and again; it goes on where it was, and nothing is trimmed that is not archived."""
    pump = Pump(single)
    admin = await asyncpg.connect(postgres_url)
    try:
        async with (
            projecting(postgres_url, single) as projector,
            keeping(postgres_url, single, projector, tail_events=0),
        ):
            for _ in range(5):
                await pump.pump(400)
                await until(lambda: trimmed_to(single, 0))
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE 'tailrace %'"
                )
    finally:
        await admin.close()
    assert [entry.seq for entry in await whole(queries, 0)] == list(range(1, pump.events + 1))


async def used(store: RedisStore) -> int:
    """Bytes that the log takes."""
    return int(await store.client.command("MEMORY", "USAGE", store.keys.partition(0).log, "SAMPLES", 0))


async def curve(
    postgres_url: str, db: Database, store: RedisStore, *, rounds: int, events: int, tail: int
) -> list[int]:
    """Bytes of the log in the middle of each round and at its end, while so many events pass in each."""
    pump = Pump(store)
    bytes_used: list[int] = []
    async with projecting(postgres_url, store) as projector, keeping(postgres_url, store, projector, tail_events=tail):
        for _ in range(rounds):
            await pump.pump(events)
            bytes_used.append(await used(store))
            await until(lambda: trimmed_to(store, tail))
            bytes_used.append(await used(store))
    rows = await db.value("SELECT count(*) FROM tailrace.events")
    assert rows == pump.events >= rounds * events
    return bytes_used


async def test_the_memory_of_the_log_is_flat(postgres_url: str, db: Database, single: RedisStore) -> None:
    """However many events have passed, the log holds its tail, and what came since; here 20,000 events."""
    found = await curve(postgres_url, db, single, rounds=10, events=2000, tail=500)
    rests = found[1::2]
    assert max(rests) < 1.25 * min(rests)
    assert max(found[10:]) < 1.25 * max(found[:10])


@pytest.mark.long
async def test_the_memory_of_the_log_is_flat_over_a_million_events(
    postgres_url: str, db: Database, single: RedisStore
) -> None:
    """The same, fifty times as long, with the tail that is shipped."""
    found = await curve(postgres_url, db, single, rounds=50, events=20_000, tail=10_000)
    print("bytes of the log at the end of each round:", found[1::2])  # noqa: T201  # a curve is looked at
    assert max(found[1::2]) < 1.1 * min(found[1::2])
    assert max(found) < 1.25 * max(found[:10])
