"""H20: who cancels knows what is still running: a queued task is gone at once, a delivered one when its holder has ended."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.commands import CancelWorkflow
from tailrace.core.testing.builders import pipeline, stage, workflow_id_in
from tests.support.bench import Bench
from tests.support.waiting import eventually


async def in_stream(bench: Bench, run: str) -> tuple[int, int]:
    """How many entries the agent's stream of the run's partition has, and how many of them are pending."""
    key = bench.part(run).tasks("agent")
    pending = await bench.store.client.command("XPENDING", key, "agent")
    return await bench.store.client.command("XLEN", key), pending[0]


@pytest.mark.hole("H20")
async def test_h20_a_running_task_stays_until_its_handler_has_ended(bench: Bench) -> None:
    """The run is cancelled at once; its queued task is gone, the running one is held as long as its handler tidies up."""
    definition = (await bench.prepare(pipeline(stage("one"), stage("two")))).pipeline
    run = workflow_id_in(0, 2)
    begun, told, tidy = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def act(context: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            await tidy.wait()
            raise

    async def gone() -> bool:
        return await in_stream(bench, run) == (0, 0)

    async with bench.orchestrating(), bench.working(act=act, concurrency=1, renew_seconds=0.1):
        await bench.submit(definition, run)
        await begun.wait()
        await eventually(lambda: running(bench, run))
        assert await in_stream(bench, run) == (2, 1)
        cancelled = await bench.handler.execute(run, CancelWorkflow(), actor="test")
        assert cancelled.state.status == "cancelled"
        assert await in_stream(bench, run) == (1, 1)
        await asyncio.wait_for(told.wait(), 5)
        # It was told, and is not done: who held the task is still to be seen.
        assert await in_stream(bench, run) == (1, 1)
        tidy.set()
        await eventually(gone, 5)
    assert await bench.store.client.command("HLEN", bench.part(run).cancels) == 0


async def running(bench: Bench, run: str) -> bool:
    """Whether a start was applied."""
    return (await bench.state(run)).started


@pytest.mark.hole("H20")
async def test_h20_a_dead_holder_does_not_keep_a_cancelled_task(bench: Bench) -> None:
    """Its lease runs out, and the task goes with it: nobody gets it, and nothing is reported."""
    definition = (await bench.prepare(pipeline(stage("one")))).pipeline
    run = workflow_id_in(0, 2)
    await bench.submit(definition, run)
    (delivery,) = await bench.queue("dead").take(2, block_seconds=1)
    await bench.handler.execute(run, CancelWorkflow(), actor="test")
    assert await in_stream(bench, run) == (1, 1)
    # What the server would say after a lease of silence.
    await bench.store.client.command(
        "XCLAIM", delivery.stream, "agent", "dead", 0, delivery.entry_id, "IDLE", 60_000, "JUSTID"
    )
    await bench.queue("other").claim(0)
    assert await bench.queue("other").claim(4) == []
    assert await in_stream(bench, run) == (0, 0)
    assert await bench.reports() == []
