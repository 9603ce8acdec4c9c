"""H11: at full memory no new run is accepted; what is open goes on to its end, and processes may come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tailrace.core.commands import PauseWorkflow, ResumeWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import AlreadyExists, StoreFull
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.store.port import WorkerBeat
from tailrace.core.testing.builders import completed, create_workflow, line, pipeline, stage, started
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.dump import dump
from tests.support.engine_process import program
from tests.support.waiting import pass_server_time

MEGABYTE = 1024 * 1024


async def fill(bench: Bench) -> None:
    """Use up the memory: far over the limit, so that what a client's buffers give back makes no room."""
    client = bench.store.client
    await client.pipeline([("SET", f"filler:{number}", bytes(MEGABYTE)) for number in range(24)])
    await client.command("CONFIG", "SET", "maxmemory", 16 * MEGABYTE)
    assert await bench.store.fullness() > 1.0
    with pytest.raises(StoreFull):
        await client.command("SET", "more", "x")


async def empty(bench: Bench) -> None:
    """Make room."""
    await bench.store.client.command("CONFIG", "SET", "maxmemory", 256 * MEGABYTE)


@pytest.fixture
async def full(own_bench: Bench) -> AsyncIterator[Bench]:
    """A bench whose server is filled by `fill`; leaves it with room."""
    yield own_bench
    await empty(own_bench)


@pytest.mark.hole("H11")
async def test_h11_a_new_run_is_refused_and_nothing_is_written(full: Bench) -> None:
    """By its mark, and by the script when the mark was passed; when there is room again, runs are accepted again."""
    runner = await full.prepare(line("only"))
    await fill(full)
    before = await dump(full.store)
    with pytest.raises(StoreFull):
        await full.submit(runner.pipeline, "refused")
    appended = await runner.append(await runner.decide("refused", create_workflow(runner.pipeline, "refused")))
    assert appended.outcome == "full"
    assert await dump(full.store) == before
    await empty(full)
    await CommandHandler(full.store).create(create_workflow(runner.pipeline, "accepted"), actor="test")


@pytest.mark.hole("H11")
async def test_h11_a_store_is_full_before_it_is(full: Bench) -> None:
    """New runs are refused over 70 %, so that open ones have room for their events."""
    runner = await full.prepare(line("only"))
    client = full.store.client
    await client.pipeline([("SET", f"filler:{number}", bytes(MEGABYTE)) for number in range(24)])
    used = await full.store.fullness() * 256 * MEGABYTE
    await client.command("CONFIG", "SET", "maxmemory", round(used / 0.8))
    with pytest.raises(StoreFull):
        await full.submit(runner.pipeline, "refused")
    assert (await runner.carry_out("open", create_workflow(runner.pipeline, "open"))).outcome == "ok"


@pytest.mark.hole("H11")
async def test_h11_a_request_that_was_accepted_is_answered_again(full: Bench) -> None:
    """Asking again for a run that is there writes nothing: it is answered over the mark, and when there is no room at all."""
    runner = await full.prepare(line("only"))
    command = create_workflow(runner.pipeline, "accepted", body_hash="one")
    await full.handler.create(command, actor="test")
    await fill(full)
    for handler in (CommandHandler(full.store), CommandHandler(full.store)):
        again = await handler.create(command, actor="test")
        assert (again.replayed, again.snapshot.state.workflow_id) == (True, "accepted")
        # The second one has asked before it was full.
        handler._fullness = (asyncio.get_running_loop().time() + 1000, 0.0)
        assert (await handler.create(command, actor="test")).replayed
        with pytest.raises(AlreadyExists):
            await handler.create(create_workflow(runner.pipeline, "accepted", body_hash="other"), actor="test")
        with pytest.raises(StoreFull):
            await handler.create(create_workflow(runner.pipeline, "refused"), actor="test")


@pytest.mark.hole("H11")
async def test_h11_what_is_open_goes_on(full: Bench) -> None:
    """Reports, renewals, beats, claims, commands, timers, ownership and parking pass."""
    store, queue = full.store, full.queue()
    runner = await full.prepare(line("first", "second"))
    timed = await full.prepare(pipeline(stage("only", start_timeout_seconds=0.2), name="timed"))
    run = await full.submit(runner.pipeline)
    late = await full.submit(timed.pipeline, "late")
    await pass_server_time(store, 0.3)
    owned = [await store.acquire(partition, "o1", None) for partition in range(2)]
    held = await queue.take(8, block_seconds=1)
    (first,) = [delivery for delivery in held if delivery.message.workflow_id == run]
    await fill(full)

    assert [renewal.outcome for renewal in await queue.renew([first])] == ["ok"]
    await queue.beat(
        WorkerBeat(agent="agent", name="w1", at=0, build="", pid=1, host="", slots=1, in_flight=1, store_id="")
    )
    assert [beat.name for beat in await store.workers("agent")] == ["w1"]
    # A start may be dropped: the end tells of it.
    assert await queue.report([(first, started(first.message.task_id), "")]) == [True]
    assert await queue.report([(first, completed(first.message.task_id), "")]) == [True]
    assert [result.outcome for result in await runner.apply_reports(run)] == ["ok"]
    assert (await full.state(run)).stages["second"].task is not None
    for partition, ownership in enumerate(owned):
        assert ownership is not None
        assert await store.acquire(partition, "o1", ownership.epoch) == ownership
        due, _ = await store.due_timers(partition, count=10)
        for ref in due:
            assert (await timed.append(await timed.decide_timer(ref, ownership=ownership))).outcome == "ok"
        await store.release_ownership(ownership)
    assert (await full.state(late)).stages["only"].retry_at is not None
    assert (await full.handler.execute(run, PauseWorkflow(), actor="test")).state.status == "paused"
    assert (await full.handler.execute(run, ResumeWorkflow(), actor="test")).state.status == "running"
    (second,) = await queue.take(8, block_seconds=1)
    await queue.release([second])
    (second,) = [delivery for delivery in await queue.claim(8) if delivery.message.workflow_id == run]
    assert await queue.report([(second, completed(second.message.task_id), "")]) == [True]
    (waiting,) = await runner.reports(run)
    assert await store.park_report(second.partition, waiting.entry_id, "for a test")
    await audit(store)


@pytest.mark.hole("H11")
async def test_h11_processes_may_start_in_a_full_store(full: Bench, tmp_path: Path) -> None:
    """A worker and an orchestrator that are restarted join, and bring the open runs to their end."""
    definition = (await full.prepare(line("first", "second"))).pipeline
    runs = [await full.submit(definition) for _ in range(6)]
    await fill(full)
    url, namespace = full.store.client.settings.url, full.store.keys.namespace
    async with (
        program("orchestrator", url, namespace, "o1", tmp_path),
        program("worker", url, namespace, "w1", tmp_path),
    ):
        await full.wait_status("completed", *runs)
    await full.store.put_definition(definition.definition)
    await audit(full.store)


@pytest.mark.hole("H11")
async def test_h11_people_are_told_that_it_is_full(full: Bench) -> None:
    """The notice is kept in the store itself, claimed there, tried again and taken off, without any room."""
    book = RedisNotices(full.store)
    options = TellerOptions(look_seconds=0.0, telling=TellingOptions(gather_seconds=0.0))
    teller = Teller(full.store, book, {"here": "us"}, options)
    epoch = await book.lead("t1", None, seconds=5.0)
    await teller.turn()
    await fill(full)
    await teller.turn()
    assert await book.lead("t1", epoch, seconds=5.0) == epoch
    claimed = await book.claim("here", seconds=60)
    assert claimed is not None
    assert claimed.notice.incident is not None
    assert claimed.notice.incident.cause == "store-full"
    assert await book.settle(replace(claimed, attempts=1, problem="it answered 503"), due_at=1)
    claimed = await book.claim("here", seconds=60)
    assert claimed is not None
    assert await book.settle(claimed, due_at=None)
