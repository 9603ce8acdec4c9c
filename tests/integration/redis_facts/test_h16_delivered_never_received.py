"""H16: what was delivered and never received is taken again; a cancelled read ends at once and loses nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.redis_backend.keys import RELEASED
from tailrace.core.store.port import Delivery
from tailrace.core.testing.builders import line, pipeline, stage, workflow_id_in
from tests.support.bench import Bench
from tests.support.engine_process import program
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

log = logging.getLogger(__name__)


@pytest.mark.hole("H16")
async def test_h16_a_cancelled_call_ends(bench: Bench) -> None:
    """Wherever in it the cancellation comes: a reader that is told to stop must not read on."""
    await bench.prepare(line("only"))
    queue = bench.queue()
    for turns in range(80):
        for call in (queue.take(8, block_seconds=5), bench.store.now()):
            task: asyncio.Task[object] = asyncio.create_task(call)
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            told = not task.done() and task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, f"cancelled in turn {turns // 2}, and still at it"
            assert task.cancelled() == told


@pytest.mark.hole("H16")
@pytest.mark.experiment("e")
async def test_h16_what_a_cancelled_read_was_given_is_reconciled(bench: Bench) -> None:
    """Tasks come while their reader is cancelled, over and over: each is received in the end, and only once."""
    definition = (await bench.prepare(line("only"))).pipeline
    queue = bench.queue()
    deliveries: list[Delivery] = []
    for number in range(60):
        reading = asyncio.create_task(queue.take(4, block_seconds=5))
        submitting = asyncio.create_task(bench.submit(definition))
        for _ in range(number % 30):
            await asyncio.sleep(0)
        reading.cancel()
        (result, _) = await asyncio.gather(reading, submitting, return_exceptions=True)
        deliveries += result if isinstance(result, list) else []
    deliveries += await queue.reconcile(deliveries)
    while more := await queue.take(100, block_seconds=0.1):
        deliveries += more
    received = Counter(delivery.message.task_id for delivery in deliveries)
    assert received == {f"{run}:only:1": 1 for run in _runs(60)}


@pytest.mark.hole("H16")
async def test_h16_entries_of_two_streams_with_one_id_are_two(bench: Bench) -> None:
    """What is held in one partition hides nothing that was delivered in another, in the same millisecond."""
    definition = (await bench.prepare(line("only"))).pipeline
    queue = bench.queue()
    held: list[Delivery] = []

    async def submit_pair(number: int) -> list[Delivery]:
        ids = [workflow_id_in(partition, 2, number=number) for partition in range(bench.store.partitions)]
        await asyncio.gather(*(bench.submit(definition, workflow_id) for workflow_id in ids))
        return await queue.take(4, block_seconds=1)

    for number in range(1, 500):
        pair = await submit_pair(number)
        if len({delivery.entry_id for delivery in pair}) == 1 < len(pair):
            break
        held += pair
    else:
        pytest.fail("no two entries had one id")
    known, unknown = pair
    (again,) = await queue.reconcile([*held, known])
    assert (again.stream, again.entry_id, again.delivery) == (unknown.stream, unknown.entry_id, 2)


@pytest.mark.hole("H16")
async def test_h16_a_worker_that_leaves_keeps_nothing(bench: Bench, tmp_path: Path) -> None:
    """A task is on its way to it when it is told to stop: it is handed back, and counts as no delivery."""
    definition = (await bench.prepare(line("only"))).pipeline
    namespace = bench.store.keys.namespace
    async with (
        FaultProxy(bench.store.client.settings.url) as proxy,
        Bench.on(proxy.url, tmp_path, namespace=namespace) as far,
        bench.orchestrating(),
    ):
        async with far.working("w1"):
            proxy.delay_seconds = 0.1
            run = await bench.submit(definition)
            await eventually(lambda: _held_by(bench, run, "w1", 1))
        assert await _held_by(bench, run, RELEASED, 1)
        async with bench.working("w2"):
            await bench.wait_status("completed", run, timeout=2.5)


@pytest.mark.failure(5)
@pytest.mark.hole("H16")
async def test_h16_a_worker_that_starts_again_takes_what_it_never_received(bench: Bench) -> None:
    """A process died between the delivery and its first line of code: the next one of that name goes on at once."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition)
    assert len(await bench.queue("w1").take(1, block_seconds=1)) == 1
    async with bench.orchestrating(), bench.working("w1"):
        await bench.wait_status("completed", run, timeout=2.0)


@pytest.mark.hole("H16")
async def test_h16_what_is_over_the_slots_goes_back(bench: Bench) -> None:
    """It died with three tasks and comes back with one slot: two are free for others at once, and not counted."""
    definition = (await bench.prepare(line("only"))).pipeline
    runs = [await bench.submit(definition) for _ in range(3)]
    assert len(await bench.queue("w1").take(3, block_seconds=0)) == 3
    never = asyncio.Event()

    async def hold(context: TaskContext) -> None:
        await never.wait()

    async with bench.working("w1", hold, concurrency=1):
        held = [(entry.worker, entry.deliveries) for entry in await bench.open_entries(*runs)]
        assert sorted(held) == sorted([("w1", 2), (RELEASED, 1), (RELEASED, 1)])
        assert [delivery.delivery for delivery in await bench.queue("w2").claim(3)] == [2, 2]


@pytest.mark.failure(3)
@pytest.mark.hole("H16")
async def test_h16_a_killed_worker_is_survived_by_its_task(bench: Bench, tmp_path: Path) -> None:
    """Killed with -9 while it works: somebody else has the task within 5 s at default settings, as a second delivery."""
    definition = (await bench.prepare(pipeline(stage("only", params={"seconds": 0.0}), name="quick"))).pipeline
    slow = (await bench.prepare(pipeline(stage("only", params={"seconds": 60.0}), name="slow"))).pipeline
    url, namespace = bench.store.client.settings.url, bench.store.keys.namespace
    async with program("worker", url, namespace, "w1", tmp_path) as process:
        run = await bench.submit(slow)
        await eventually(lambda: _held_by(bench, run, "w1", 1))
        # The other one has a single slot, and looks after all partitions with it.
        async with bench.working("w2", concurrency=1), bench.orchestrating():
            await bench.wait_status("running", run)
            process.kill()
            killed_at = await bench.store.now()
            await bench.wait_status("completed", run, timeout=5.0)
            took = (await bench.store.now() - killed_at) / 1_000_000
            log.warning("recovered %.2f s after the kill", took)
            assert took < 5.0
            await bench.wait_status("completed", await bench.submit(definition))


def _runs(number: int) -> list[str]:
    return [f"run-{place}" for place in range(1, number + 1)]


async def _held_by(bench: Bench, run: str, worker: str, deliveries: int) -> bool:
    return [(entry.worker, entry.deliveries) for entry in await bench.store.open_entries(run)] == [(worker, deliveries)]
