"""H13 to H15: what waits is counted right, nobody hoards, and an expired entry is found wherever it stands."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.commands import CancelWorkflow
from tailrace.core.store.port import Delivery, Limits
from tailrace.core.testing.builders import completed, create_workflow, line, workflow_id_in
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.bench import Bench
from tests.support.waiting import beside, pass_server_time

SHORT = Limits(lease_seconds=0.6, pulse_seconds=0.4, owner_seconds=60.0)

log = logging.getLogger(__name__)


async def counted(bench: Bench) -> tuple[int, int]:
    """Backlog and pending of the agent, in all partitions."""
    queues = await bench.store.queues(["agent"])
    return sum(queue.backlog for queue in queues), sum(queue.pending for queue in queues)


@pytest.mark.hole("H13")
@pytest.mark.experiment("d")
async def test_h13_backlog_is_what_nobody_holds(bench: Bench) -> None:
    """After every step of a random life with cancellations, where the group's own `lag` is wrong or null."""
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    definition = (await bench.prepare(line("only"))).pipeline
    queue = bench.queue()
    waiting: set[str] = set()
    held: dict[str, Delivery] = {}
    nulls = 0
    for _ in range(250):
        match dice.choice(["submit", "submit", "take", "report", "cancel"]):
            case "submit":
                waiting.add(await bench.submit(definition, priority=dice.choice(["low", "high"])))
            case "take":
                for delivery in await queue.take(dice.randint(1, 3), block_seconds=0):
                    waiting.remove(delivery.message.workflow_id)
                    held[delivery.message.workflow_id] = delivery
            case "report" if held:
                # The latest as well as the oldest: that is what makes `lag` null.
                delivery = held.pop(dice.choice(sorted(held)))
                assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]
            case "cancel" if waiting:
                run = dice.choice(sorted(waiting))
                await bench.handler.execute(run, CancelWorkflow(), actor="test")
                waiting.remove(run)
        assert await counted(bench) == (len(waiting), len(held))
        for partition in range(2):
            key = bench.store.keys.partition(partition).tasks("agent")
            (group,) = await bench.store.client.command("XINFO", "GROUPS", key)
            nulls += dict(zip(group[::2], group[1::2], strict=True))[b"lag"] is None
    assert nulls > 0, "the fact itself was not provoked"


@pytest.mark.hole("H13")
async def test_h13_figures_are_of_one_moment(bench: Bench) -> None:
    """Under load no figure is below nothing, and nobody holds more than there is."""
    definition = (await bench.prepare(line("first", "second", "third"))).pipeline

    async def submit() -> None:
        for _ in range(60):
            await bench.submit(definition)

    async with bench.orchestrating(), bench.working("w1", concurrency=2), bench.working("w2", concurrency=3):
        async with beside(submit()) as (submitting,):
            while not submitting.done():
                backlog, pending = await counted(bench)
                assert backlog >= 0
                assert 0 <= pending <= 5
        await bench.wait_status("completed", *[f"run-{number}" for number in range(1, 61)])
    assert await counted(bench) == (0, 0)


@pytest.mark.hole("H14")
async def test_h14_a_worker_takes_no_more_than_it_has_slots(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """COUNT is per stream, and there are sixteen of them: with one slot it has one task, and the others stay free."""
    async with Bench.on(redis_server.url, tmp_path, partitions=8) as bench:
        definition = (await bench.prepare(line("only"))).pipeline
        may_end = asyncio.Event()

        async def hold(context: TaskContext) -> str:
            await may_end.wait()
            return context.task_id

        async with bench.orchestrating(), bench.working("w1", hold, concurrency=1):
            runs = [await bench.submit(definition, workflow_id_in(number, 8)) for number in range(8)]
            others = await bench.queue("w2").take(16, block_seconds=1.0)
            seen = [entry for entry in await bench.open_entries(*runs) if entry.worker == "w1"]
            assert len(seen) <= 1
            # A second look, when w1 has had all the time it wants.
            others += await bench.queue("w2").take(16, block_seconds=1.0)
            assert len(others) == 7
            assert await counted(bench) == (0, 8)
            may_end.set()
            done = [(delivery, completed(delivery.message.task_id, worker="w2"), "") for delivery in others]
            assert all(await bench.queue("w2").report(done))
            await bench.wait_status("completed", *runs)


@pytest.mark.failure(5)
@pytest.mark.hole("H15")
@pytest.mark.experiment("d")
async def test_h15_an_expired_entry_behind_many_renewed_ones_is_found(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """By one poll, with its delivery count; XAUTOCLAIM from the beginning would look at a hundred, and stop."""
    async with Bench.on(redis_server.url, tmp_path, limits=SHORT) as bench:
        runner = await bench.prepare(line("only"))
        runs, now = [workflow_id_in(0, 2, number=number) for number in range(1, 222)], await bench.store.now()
        appends = [runner.decide_on(None, create_workflow(runner.pipeline, run), now=now) for run in runs]
        assert {appended.outcome for appended in await bench.store.append(appends)} == {"ok"}
        queue, other = bench.queue("w1"), bench.queue("w2")
        held = await queue.take(1000, block_seconds=1.0)
        assert len(held) == 221
        *renewed, expired, last = held
        for _ in range(4):
            assert {renewal.outcome for renewal in await queue.renew([*renewed, last])} == {"ok"}
            await pass_server_time(bench.store, 0.2)
            await bench.store.due_timers(0, count=1)
        (claimed,) = await other.claim(5)
        assert (claimed.entry_id, claimed.delivery) == (expired.entry_id, 2)
        assert await other.claim(5) == []
