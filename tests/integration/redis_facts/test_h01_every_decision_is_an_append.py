"""H1: a decision without events goes through the same script, so a stale view never drops a report."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.core.commands import Report
from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.events import ReportIgnored
from tailrace.core.store.port import Delivery, Limits
from tailrace.core.testing.builders import completed, diamond, line, started, workflow_id_in
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.waiting import beside, eventually

log = logging.getLogger(__name__)


async def report(bench: Bench, delivery: Delivery, *kinds: str, name: str = "w1") -> None:
    """Report what was delivered: `started`, `completed`, or both."""
    make: dict[str, Callable[..., Report]] = {"started": started, "completed": completed}
    task_id = delivery.message.task_id
    sent = [(delivery, make[kind](task_id, worker=name, delivery=delivery.delivery), "") for kind in kinds]
    assert all(await bench.queue(name).report(sent))


@pytest.mark.failure(17)
@pytest.mark.failure(21)
@pytest.mark.hole("H1")
async def test_h01_a_stale_view_does_not_drop_a_report(bench: Bench) -> None:
    """To a view from before the dispatch the task is unknown and its start means nothing; it stays until it is seen."""
    runner = await bench.prepare(line("first", "second"))
    run = workflow_id_in(0, bench.store.partitions)
    await bench.submit(runner.pipeline, run)
    owned = await bench.store.acquire(0, "o1", None)
    assert owned is not None
    stale, fresh = PartitionWork(bench.store, owned), PartitionWork(bench.store, owned)
    queue = bench.queue()
    (first,) = await queue.take(1, block_seconds=1)
    await report(bench, first, "started")
    assert await stale.apply_reports(await bench.reports()) == 1
    await report(bench, first, "completed")
    assert await fresh.apply_reports(await bench.reports()) == 1
    (second,) = await queue.take(1, block_seconds=1)

    await report(bench, second, "started")
    assert await stale.apply_reports(await bench.reports()) == 0
    (waiting,) = await bench.reports()
    assert waiting.report is not None
    assert waiting.report.task_id == second.message.task_id
    # It knows better now.
    assert await stale.apply_reports([waiting]) == 1
    assert (await bench.state(run)).stages["second"].task is not None
    assert (await bench.state(run)).version == 6


@pytest.mark.hole("H1")
async def test_h01_a_decision_without_events_is_gone_when_somebody_else_made_it(bench: Bench) -> None:
    """Two may read the same report: the second one writes nothing and is told."""
    runner = await bench.prepare(line("only"))
    run = await bench.submit(runner.pipeline)
    (delivery,) = await bench.queue().take(1, block_seconds=1)
    await report(bench, delivery, "started", "started")
    both = await bench.reports()
    await runner.append(await runner.decide_report(both[0]))
    append = await runner.decide_report(both[1])
    assert append.records == []
    assert [(await runner.append(append)).outcome for _ in range(2)] == ["ok", "gone"]
    assert (await bench.state(run)).version == 3


@pytest.mark.hole("H1")
async def test_h01_two_orchestrators_with_stale_views_lose_nothing(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Every report is applied, or recorded as ignored: all runs end, and nothing is left over."""
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    async with Bench.on(redis_server.url, tmp_path, limits=Limits(owner_seconds=60.0)) as bench:
        await stale_views(bench, dice)


async def stale_views(bench: Bench, dice: random.Random) -> None:
    """Two workers, and two that apply what these report, each with a memory of its own."""
    pipeline = (await bench.prepare(diamond())).pipeline
    runs = [
        await bench.submit(pipeline, workflow_id_in(0, bench.store.partitions, number=number))
        for number in range(1, 81)
    ]
    owned = await bench.store.acquire(0, "o1", None)
    assert owned is not None
    works = [PartitionWork(bench.store, owned), PartitionWork(bench.store, owned)]

    async def work(name: str) -> None:
        queue = bench.queue(name)
        while True:
            for delivery in await queue.take(8, block_seconds=0.2):
                await report(bench, delivery, *dice.choice([["started", "completed"], ["completed"]]), name=name)

    async def apply(work: PartitionWork) -> None:
        while True:
            entries = await bench.store.read_reports(0, count=dice.randint(1, 40), block_seconds=0.2)
            # What was read grows old here, while the other one goes on.
            await asyncio.sleep(dice.random() * 0.01)
            await work.apply_reports(entries)

    async with beside(work("w1"), work("w2"), *(apply(each) for each in works)):
        await bench.wait_status("completed", *runs)
        await eventually(lambda: _none_left(bench))
    logs = await audit(bench.store)
    ignored = [
        entry for entries in logs.values() for entry in entries if isinstance(record(entry).event, ReportIgnored)
    ]
    assert ignored == []
    assert len(logs) == 80


async def _none_left(bench: Bench) -> bool:
    return not await bench.reports()
