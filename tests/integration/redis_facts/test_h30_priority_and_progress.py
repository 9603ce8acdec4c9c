"""H30: urgent tasks have a stream that is read first, and a handler that talks much does not flood the log."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.testing.builders import line, workflow_id_in
from tests.support.audit import audit
from tests.support.bench import Bench


@pytest.mark.hole("H30")
async def test_h30_an_urgent_run_overtakes_what_waits(bench: Bench) -> None:
    """A worker with one slot, a queue of low ones, and then a high one: it is next, and the others keep their order."""
    definition = (await bench.prepare(line("only"))).pipeline
    runs = [workflow_id_in(0, 2, number=number) for number in range(1, 8)]
    begun: list[str] = []
    free = asyncio.Event()

    async def act(context: TaskContext) -> None:
        begun.append(context.workflow_id)
        await free.wait()

    async with bench.orchestrating(), bench.working(act=act, concurrency=1):
        await bench.submit(definition, runs[0])
        await bench.wait_status("running", runs[0])
        for run in runs[1:-1]:
            await bench.submit(definition, run, priority="low")
        await bench.submit(definition, runs[-1], priority="high")
        free.set()
        await bench.wait_status("completed", *runs)
    assert begun == [runs[0], runs[-1], *runs[1:-1]]


@pytest.mark.hole("H30")
async def test_h30_progress_does_not_flood_the_log(bench: Bench) -> None:
    """Hundreds of words within a second are one event."""
    definition = (await bench.prepare(line("only"))).pipeline

    async def act(context: TaskContext) -> None:
        for step in range(500):
            await context.progress(step / 500, f"step {step}")
            await asyncio.sleep(0)

    async with bench.orchestrating(), bench.working(act=act):
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
    types = [entry.type for entry in (await audit(bench.store))[run]]
    assert types.count("TaskProgressed") == 1
