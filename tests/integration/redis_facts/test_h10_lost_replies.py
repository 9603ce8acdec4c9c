"""H10: a reply is lost, a server restarts, a socket is slow: what was asked for happens exactly once, and is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.core.commands import CancelWorkflow, PauseWorkflow
from tailrace.core.errors import StoreUnavailable
from tailrace.core.events import TaskStarted
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import Call
from tailrace.core.testing.builders import completed, create_workflow, line
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.append_call import append_call
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import beside, eventually

TIMEOUT_SECONDS = 0.5


@pytest.fixture
async def proxy(redis_server: EmbeddedRedis) -> AsyncIterator[FaultProxy]:
    """In front of the shared server."""
    async with FaultProxy(redis_server.url) as made:
        yield made


@pytest.fixture
async def far(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[Bench]:
    """A namespace that is reached through the proxy."""
    async with Bench.on(proxy.url, tmp_path, timeout=TIMEOUT_SECONDS, connect_timeout=TIMEOUT_SECONDS) as made:
        yield made


async def types(bench: Bench, run: str) -> list[str]:
    """What the log says of a run, which is also what is stored."""
    return [entry.type for entry in (await audit(bench.store))[run]]


@pytest.mark.hole("H10")
@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_h10_a_run_is_created_once(far: Bench, proxy: FaultProxy, lost: str) -> None:
    """The caller gets the run it made, not an error and not somebody else's."""
    definition = (await far.prepare(line("only"))).pipeline
    if lost == "reply":
        proxy.lose_reply(to=b"WorkflowCreated")
    else:
        proxy.lose_request(with_bytes=b"WorkflowCreated")
    outcome = await far.handler.create(create_workflow(definition, "run"), actor="test")
    assert proxy.faults_done == 1
    assert not outcome.replayed
    assert outcome.snapshot.state == await far.state("run")
    assert await types(far, "run") == ["WorkflowCreated", "TaskDispatched"]
    assert len(await far.queue().take(8, block_seconds=0.1)) == 1


@pytest.mark.hole("H10")
@pytest.mark.parametrize("times", [1, 3])
async def test_h10_a_command_is_carried_out_once(far: Bench, proxy: FaultProxy, times: int) -> None:
    """Though the reply is lost, and then the next ones: it is asked for by its id, and the outcome is given."""
    definition = (await far.prepare(line("only"))).pipeline
    await far.submit(definition, "run")
    proxy.lose_reply(to=b"WorkflowPaused")
    # When it asks what became of it, that is lost as well.
    for _ in range(times - 1):
        proxy.lose_reply(to=b"HGETALL")
    paused = await far.handler.execute("run", PauseWorkflow(), actor="test")
    assert paused.state.status == "paused"
    assert paused.state == await far.state("run")
    proxy.lose_reply(to=b"WorkflowCancelled")
    cancelled = await far.handler.execute("run", CancelWorkflow(), actor="test")
    assert cancelled.state.status == "cancelled"
    assert proxy.faults_done >= 2
    assert await types(far, "run") == ["WorkflowCreated", "TaskDispatched", "WorkflowPaused", "WorkflowCancelled"]


@pytest.mark.hole("H10")
async def test_h10_a_gateway_outlives_a_server_that_cannot_be_reached(far: Bench, proxy: FaultProxy) -> None:
    """For as long as it may take to restart: the request waits, and is carried out once."""
    definition = (await far.prepare(line("only"))).pipeline
    proxy.refusing = True
    proxy.cut()
    tried = proxy.connections
    # (The first question of a request is how full the store is, and is not repeated.)
    far.handler._fullness = (asyncio.get_running_loop().time(), 0.0)

    async def tried_twice() -> bool:
        return proxy.connections >= tried + 2

    async with beside(far.handler.create(create_workflow(definition, "run"), actor="test")) as (creating,):
        await eventually(tried_twice)
        proxy.refusing = False
        assert (await creating).snapshot.state.status == "initiated"
    assert await types(far, "run") == ["WorkflowCreated", "TaskDispatched"]


@pytest.mark.hole("H10")
async def test_h10_the_driver_does_not_retry(far: Bench, proxy: FaultProxy) -> None:
    """By default it would send an XADD again ten times, and each would be an entry."""
    client = far.store.client

    async def short(*parts: str) -> None:
        await client.command(*parts)

    async def blocking(*parts: str) -> None:
        await client.block(parts)

    for send in (short, blocking):
        key = f"{far.store.keys.meta}:{send.__name__}"
        before = await far.calls_of("xadd")
        proxy.lose_reply(to=b"XADD")
        with pytest.raises(StoreUnavailable):
            await send("XADD", key, "*", "field", "value")
        assert await client.command("XLEN", key) == 1
        assert await far.calls_of("xadd") == before + 1
    proxy.lose_request(with_bytes=b"XADD")
    with pytest.raises(StoreUnavailable):
        await client.pipeline([("XADD", "never", "*", "field", "value")] * 3)
    assert await client.command("XLEN", "never") == 0


@pytest.mark.failure(8)
@pytest.mark.hole("H10")
async def test_h10_a_report_whose_reply_is_lost_counts_once(far: Bench, proxy: FaultProxy) -> None:
    """A real worker sends it again, and is told that the task is not its own any more: it is done."""
    definition = (await far.prepare(line("first", "second"))).pipeline
    proxy.lose_reply(to=b"completed", times=2)
    async with far.orchestrating(), far.working():
        run = await far.submit(definition)
        await far.wait_status("completed", run)
    assert proxy.faults_done == 2
    assert (await types(far, run)).count("StageCompleted") == 2
    assert {stage.attempt for stage in (await far.state(run)).stages.values()} == {1}


@pytest.mark.hole("H10")
async def test_h10_a_delivery_whose_reply_is_lost_is_taken_at_once(far: Bench, proxy: FaultProxy) -> None:
    """It is pending under the worker's name: the worker looks for it there, and does not wait for its own lease."""
    definition = (await far.prepare(line("only"))).pipeline
    run = await far.submit(definition)
    proxy.lose_reply(to=b"XREADGROUP")
    async with far.orchestrating(), far.working():
        await far.wait_status("completed", run, timeout=2.5)
    assert proxy.faults_done == 1
    events = [record(entry).event for entry in (await audit(far.store))[run]]
    assert [event.delivery for event in events if isinstance(event, TaskStarted)] == [2]


@pytest.mark.hole("H10")
@pytest.mark.experiment("e")
async def test_h10_a_blocking_read_may_be_longer_than_a_call(far: Bench, proxy: FaultProxy) -> None:
    """It has a timeout of its own; a short call to a server that is silent ends by its own, shorter one."""
    blocked = time.monotonic()
    connections = proxy.connections
    assert await far.store.read_reports(0, count=1, block_seconds=3 * TIMEOUT_SECONDS) == []
    assert 2.9 * TIMEOUT_SECONDS < time.monotonic() - blocked < 6 * TIMEOUT_SECONDS
    assert proxy.connections <= connections + 1
    proxy.delay_seconds = 4 * TIMEOUT_SECONDS
    asked = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await far.store.now()
    assert time.monotonic() - asked < 3 * TIMEOUT_SECONDS


@pytest.mark.hole("H10")
async def test_h10_only_scripts_the_server_forgot_are_sent_again(own_bench: Bench) -> None:
    """After a restart a pipeline is half known: what was carried out is not carried out twice."""
    bench = own_bench
    runner = await bench.prepare(line("only"))
    owned = await bench.store.acquire(0, "o1", None)
    assert owned is not None
    await bench.store.release_ownership(owned)
    appends = [await runner.decide(f"run-{n}", create_workflow(runner.pipeline, f"run-{n}")) for n in range(3)]
    await bench.store.client.command("SCRIPT", "FLUSH")
    await bench.store.client.command("SCRIPT", "LOAD", scripts.OWNER.text)
    owner = Call(scripts.OWNER, [bench.store.keys.partition(0).owner], ["o1", "", 0])
    calls = [append_call(bench.store, append) for append in appends]
    replies = await bench.store.client.calls([owner, calls[0], owner, calls[1], owner, calls[2]])
    # Each time it is taken its epoch goes up by one.
    assert [replies[place] for place in (0, 2, 4)] == [2, 3, 4]
    assert [replies[place][0][0] for place in (1, 3, 5)] == [b"ok"] * 3
    assert sorted(await audit(bench.store)) == ["run-0", "run-1", "run-2"]


@pytest.mark.hole("H10")
@pytest.mark.experiment("e")
async def test_h10_everything_goes_on_after_a_restart(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """Worker, orchestrator and caller hold connections and scripts that the server does not know any more."""
    bench = own_bench
    definition = (await bench.prepare(line("first", "second"))).pipeline
    async with bench.orchestrating(), bench.working():
        await bench.wait_status("completed", await bench.submit(definition))
        await own_server.kill()
        await own_server.start()
        # The partition's owner goes on with what is left of its own lease; it does not wait for the end of it.
        await bench.wait_status("completed", await bench.submit(definition), timeout=2.5)
    await audit(bench.store)


@pytest.mark.failure(10)
@pytest.mark.hole("H10")
async def test_blocking_reads_never_delay_a_publish(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """They have connections of their own, however many wait and however few are left for short calls."""
    async with Bench.on(redis_server.url, tmp_path, max_connections=12) as bench:
        definition = (await bench.prepare(line("only"))).pipeline
        run = await bench.submit(definition)
        (delivery,) = await bench.queue().take(1, block_seconds=1)
        waiting = [bench.store.read_log(n % 2, "9999999999999-0", count=1, block_seconds=2.0) for n in range(10)]
        async with beside(*waiting) as reads:
            durations = []
            for number in range(50):
                began = time.monotonic()
                await bench.submit(definition, f"beside-{number}")
                durations.append(time.monotonic() - began)
            began = time.monotonic()
            assert await bench.queue().report([(delivery, completed(delivery.message.task_id), "")]) == [True]
            durations.append(time.monotonic() - began)
            assert not any(read.done() for read in reads) or sum(durations) > 2.0
            assert max(durations) < 1.0, sorted(durations)[-5:]
            assert sorted(durations)[25] < 0.1
        assert (await bench.state(run)).version == 2
