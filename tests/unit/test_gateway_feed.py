"""The feed: one reader per partition, bounded queues, and no silent skipping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tailrace.core.commands import PauseWorkflow, ResumeWorkflow
from tailrace.core.errors import StoreUnavailable
from tailrace.core.store.memory import MemoryBackend, MemoryStore
from tailrace.core.store.port import Head, RawEntry
from tailrace.core.testing.builders import line, workflow_id_in
from tailrace.core.testing.clock import settle
from tailrace.core.testing.runner import Runner
from tailrace.gateway.feed import Feed, Subscription

PATIENCE_SECONDS = 10.0


@pytest.fixture
def backend() -> MemoryBackend:
    """An empty namespace."""
    return MemoryBackend()


@pytest.fixture
async def runner(backend: MemoryBackend) -> Runner:
    """Makes events."""
    made = Runner(backend.store(), line("a", "b"))
    await made.prepare()
    return made


@pytest.fixture
async def feed(backend: MemoryBackend) -> AsyncIterator[Feed]:
    """A feed with room for four entries per listener."""
    made = Feed(backend.store(), source="urn:test", queue_limit=4, timeout_seconds=1.0)
    yield made
    await made.close()


async def take(subscription: Subscription, count: int) -> list[tuple[str, int]]:
    """The next entries, as (workflow, version)."""
    found: list[tuple[str, int]] = []
    while len(found) < count:
        items = await subscription.take(PATIENCE_SECONDS)
        assert items, subscription.closed
        found += [(item.entry.workflow_id, item.entry.version) for item in items]
    return found


async def test_a_listener_hears_what_is_appended_from_then_on(runner: Runner, feed: Feed) -> None:
    """And knows behind which place that is."""
    first, second = workflow_id_in(0, 2), workflow_id_in(0, 2, number=2)
    await runner.create(first)
    async with feed.subscribe([0]) as subscription:
        assert subscription.starts[0].seq == 2
        await runner.create(second)
        assert await take(subscription, 2) == [(second, 1), (second, 2)]


async def test_a_listener_hears_its_own_workflow_only(runner: Runner, feed: Feed) -> None:
    """Others in the same partition do not fill its queue."""
    wanted, other = workflow_id_in(0, 2), workflow_id_in(0, 2, number=2)
    await runner.create(other)
    async with feed.subscribe([0], wanted) as subscription:
        for _ in range(3):
            await runner.carry_out(other, PauseWorkflow())
            await runner.carry_out(other, ResumeWorkflow())
        await runner.create(wanted)
        assert await take(subscription, 2) == [(wanted, 1), (wanted, 2)]


async def test_one_reader_serves_all_listeners(runner: Runner, backend: MemoryBackend) -> None:
    """However many listen, the log is read once; when nobody does, it is not read."""
    reads = 0

    class Counting(MemoryStore):
        async def read_log(self, *args: Any, **options: Any) -> list[RawEntry]:
            nonlocal reads
            reads += 1
            return await super().read_log(*args, **options)

    feed = Feed(Counting(backend), source="urn:test", queue_limit=4, timeout_seconds=1.0)
    assert feed.listening == 0
    async with feed.subscribe([0]) as one, feed.subscribe([0]) as two:
        assert feed.listening == 1
        await runner.create(workflow_id_in(0, 2))
        assert await take(one, 2) == await take(two, 2)
        await settle()
        assert reads == 2  # the one that gave the entries, and the one that waits for more
    backend.clock.advance(10)
    await settle()
    assert feed.listening == 0
    await feed.close()


async def test_a_slow_listener_is_cut_off_and_the_others_are_not(runner: Runner, feed: Feed) -> None:
    """Its queue is bounded, and emptied when it is over."""
    workflow_id = workflow_id_in(0, 2)
    await runner.create(workflow_id)
    async with feed.subscribe([0]) as slow, feed.subscribe([0]) as quick:
        for _ in range(3):
            await runner.carry_out(workflow_id, PauseWorkflow())
            await runner.carry_out(workflow_id, ResumeWorkflow())
            await take(quick, 2)
        assert slow.closed == "slow"
        assert await slow.take(PATIENCE_SECONDS) == []
        assert quick.closed is None


async def test_nothing_within_the_time_is_nothing(feed: Feed) -> None:
    """A listener that waits in vain can send its heartbeat."""
    async with feed.subscribe([0]) as subscription:
        assert await subscription.take(0.001) == []
        assert subscription.closed is None


async def test_closing_ends_every_listener(feed: Feed) -> None:
    """What waits is woken, and who comes later is told at once."""
    async with feed.subscribe([0, 1]) as subscription:
        waiting = asyncio.ensure_future(subscription.take(PATIENCE_SECONDS))
        await settle()
        await feed.close()
        assert await waiting == []
        assert subscription.closed == "shutdown"
    async with feed.subscribe([0]) as late:
        assert late.closed == "shutdown"


async def test_closing_ends_who_is_just_joining(backend: MemoryBackend) -> None:
    """It does not wait for the end of a log that nobody will look for any more."""
    asked = asyncio.Event()

    class Hanging(MemoryStore):
        async def head(self, partition: int) -> Head:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    feed = Feed(Hanging(backend), source="urn:test", queue_limit=4, timeout_seconds=PATIENCE_SECONDS)

    async def listen() -> str | None:
        async with feed.subscribe([0, 1]) as subscription:
            return subscription.closed

    listening = asyncio.ensure_future(listen())
    await asked.wait()
    await feed.close()
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        assert await listening == "shutdown"


async def test_a_hole_in_the_log_ends_its_listeners(runner: Runner, backend: MemoryBackend, feed: Feed) -> None:
    """The next entry does not follow: somebody put the log back, or took something out of it."""
    workflow_id = workflow_id_in(0, 2)
    await runner.create(workflow_id)
    async with feed.subscribe([0]) as subscription:
        backend.partitions[0].seq += 5
        await runner.carry_out(workflow_id, PauseWorkflow())
        assert await subscription.take(PATIENCE_SECONDS) == []
        assert subscription.closed == "diverged"
    async with feed.subscribe([0]) as again:
        await runner.carry_out(workflow_id, ResumeWorkflow())
        assert await take(again, 1) == [(workflow_id, 4)]


async def test_a_quiet_log_that_went_back_is_noticed(runner: Runner, backend: MemoryBackend, feed: Feed) -> None:
    """Nothing would ever come: the end of the log is looked at when a read gave nothing."""
    await runner.create(workflow_id_in(0, 2))
    async with feed.subscribe([0]) as subscription:
        await settle()
        backend.epoch = "another"
        backend.clock.advance(10)
        assert await subscription.take(PATIENCE_SECONDS) == []
        assert subscription.closed == "diverged"


async def test_a_store_that_is_away_delays_and_loses_nothing(runner: Runner, backend: MemoryBackend) -> None:
    """Reading goes on where it was."""
    away = False

    class Flaky(MemoryStore):
        async def read_log(self, *args: Any, **options: Any) -> list[RawEntry]:
            if away:
                raise StoreUnavailable("away")
            return await super().read_log(*args, **options)

    feed = Feed(Flaky(backend), source="urn:test", queue_limit=4, timeout_seconds=1.0)
    workflow_id = workflow_id_in(0, 2)
    async with feed.subscribe([0]) as subscription:
        await settle()
        away = True
        backend.clock.advance(10)
        await settle()
        await runner.create(workflow_id)
        away = False
        assert await take(subscription, 2) == [(workflow_id, 1), (workflow_id, 2)]
    await feed.close()


async def test_who_can_not_be_told_where_the_log_ends_is_refused(backend: MemoryBackend) -> None:
    """`StoreUnavailable`, in bounded time."""

    class Away(MemoryStore):
        async def head(self, partition: int) -> Head:
            raise StoreUnavailable("away")

    feed = Feed(Away(backend), source="urn:test", queue_limit=4, timeout_seconds=0.05)
    with pytest.raises(StoreUnavailable):
        async with feed.subscribe([0]):
            pass
    await feed.close()
