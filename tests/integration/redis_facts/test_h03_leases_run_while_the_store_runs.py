"""H3: the lease clock runs while the store is away. No healthy task is stolen for that, and no timer fires."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from tailrace.agents.leases import RENEW_SECONDS, LeaseRounds, LeaseThread
from tailrace.agents.sdk import TaskContext
from tailrace.core.redis_backend.tasks import RedisLeases
from tailrace.core.store.port import Delivery, WorkerBeat
from tailrace.core.testing.builders import pipeline, stage
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.bench import Bench
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import beside, eventually, pass_server_time

TASKS = 10
BEAT = WorkerBeat(agent="agent", name="w1", at=0, build="", pid=1, host="", slots=1, in_flight=0, store_id="")

log = logging.getLogger(__name__)


async def away(server: EmbeddedRedis, how: str, seconds: float) -> None:
    """Take the server away, frozen or killed. Its time is what is tested: meanwhile there is no clock but the wall's."""
    if how == "stopped":
        server.pause()
        await asyncio.sleep(seconds)
        server.resume()
    else:
        await server.kill()
        await asyncio.sleep(seconds)
        await server.start()


@pytest.mark.hole("H3")
@pytest.mark.parametrize(("how", "seconds"), [("stopped", 4.0), ("killed", 3.0)])
async def test_h03_a_lease_runs_only_while_the_store_runs(
    own_server: EmbeddedRedis, own_bench: Bench, how: str, seconds: float
) -> None:
    """Tasks of a worker that lives stay with it, as the first delivery; that of a dead one is claimed after one lease."""
    bench = own_bench
    definition = (await bench.prepare(pipeline(stage("only")))).pipeline
    orphan = await bench.submit(definition)
    assert len(await bench.queue("dead").take(1, block_seconds=1)) == 1
    may_end = asyncio.Event()

    async def hold(context: TaskContext) -> str:
        await may_end.wait()
        return context.task_id

    async with bench.orchestrating(), bench.working("w1", hold, concurrency=TASKS):
        runs = [await bench.submit(definition) for _ in range(TASKS)]
        await bench.wait_status("running", *runs)
        async with bench.working("w2", hold, concurrency=TASKS):
            await away(own_server, how, seconds)
            back_at = await bench.store.now()
            await bench.wait_status("running", orphan, timeout=8.0)
            took = (await bench.store.now() - back_at) / 1_000_000
            log.warning("the dead worker's task was recovered %.2f s after the store came back (%s)", took, how)
            # Found again by a poll that may have waited up to 2 s for the server, then one lease of grace and one poll.
            assert 2.0 < took < 6.0
            # Through all that might come after the grace.
            await pass_server_time(bench.store, 1.0)
            held = await bench.open_entries(*runs, orphan)
            assert [(entry.worker, entry.deliveries) for entry in held] == [*[("w1", 1)] * TASKS, ("w2", 2)]
            may_end.set()
            await bench.wait_status("completed", *runs, orphan)


@pytest.mark.hole("H3")
async def test_h03_an_absence_too_short_to_count_steals_nothing(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """Just under the 1.5 s that give a grace, and killed, so that the holder has to connect anew."""
    bench = own_bench
    definition = (await bench.prepare(pipeline(stage("only")))).pipeline
    may_end = asyncio.Event()

    async def hold(context: TaskContext) -> str:
        await may_end.wait()
        return context.task_id

    async with bench.orchestrating(), bench.working("w1", hold), bench.working("w2", hold), bench.working("w3", hold):
        runs = [await bench.submit(definition) for _ in range(4)]
        await bench.wait_status("running", *runs)
        before = await bench.open_entries(*runs)
        await away(own_server, "killed", 1.2)
        await pass_server_time(bench.store, 2.0)
        after = await bench.open_entries(*runs)
        assert [(entry.worker, entry.deliveries) for entry in after] == [(entry.worker, 1) for entry in before]
        may_end.set()
        await bench.wait_status("completed", *runs)


@pytest.mark.hole("H3")
async def test_h03_a_renewal_that_failed_is_soon_tried_again(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """With a second more between two tries, an absence that is too short for a grace would last as long as a lease."""
    async with FaultProxy(redis_server.url) as proxy, Bench.on(proxy.url, tmp_path) as bench:
        tries: list[float] = []
        failures: list[Exception] = []

        def held() -> list[Delivery]:
            tries.append(time.monotonic())
            return []

        rounds = LeaseRounds(
            RedisLeases(bench.store, "agent", "w1"),
            held=held,
            beat=lambda: BEAT,
            on_renewals=lambda renewals: None,
            on_failure=failures.append,
        )
        thread = LeaseThread(rounds)
        thread.start()
        try:
            await eventually(lambda: _as_many(tries, 1))
            proxy.refusing = True
            proxy.cut()
            await eventually(lambda: _as_many(tries, 6))
        finally:
            proxy.refusing = False
            await asyncio.to_thread(thread.stop)
        assert tries[5] - tries[2] < 3 * RENEW_SECONDS / 2


async def _as_many(tries: list[float], wanted: int) -> bool:
    return len(tries) >= wanted


@pytest.mark.hole("H3")
async def test_h03_no_timer_fires_in_the_grace(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """What is over its time because the store was away may still be reported: the timer waits for a lease."""
    bench = own_bench
    timed = (await bench.prepare(pipeline(stage("only", timeout_seconds=2.0)))).pipeline
    ended = asyncio.Event()

    async def until_back(context: TaskContext) -> str:
        await ended.wait()
        return context.task_id

    async with bench.orchestrating(), bench.working("w1", until_back):
        run = await bench.submit(timed)
        await bench.wait_status("running", run)
        async with beside(away(own_server, "killed", 2.0)) as (outage,):
            await eventually(lambda: _false_if_running(own_server))
            ended.set()
            await outage
        await bench.wait_status("completed", run)
        assert (await bench.state(run)).stages["only"].attempt == 1


async def _false_if_running(server: EmbeddedRedis) -> bool:
    return not server.running
