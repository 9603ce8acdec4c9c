"""H17: renewals have a thread: a blocked event loop keeps its leases, and without the thread nobody goes on working."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.testing.builders import pipeline, stage
from tests.support.bench import Bench
from tests.support.engine_process import program

BLOCK_SECONDS = 3.6


@pytest.mark.failure(26)
@pytest.mark.hole("H17")
async def test_h17_a_blocked_loop_keeps_its_lease(bench: Bench) -> None:
    """Renewals and beats run on a thread of their own; others that look for expired leases find none."""
    definition = (await bench.prepare(pipeline(stage("only")))).pipeline
    url, namespace = bench.store.client.settings.url, bench.store.keys.namespace

    async def block(context: TaskContext) -> str:
        time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - what is tested
        return context.task_id

    async with (
        program("orchestrator", url, namespace, "o1", bench.folder),
        bench.working("w1", block),
    ):
        run = await bench.submit(definition)
        async with program("worker", url, namespace, "w2", bench.folder):
            await bench.wait_status("completed", run)
    task = (await bench.store.load(run)).stage_outputs()  # type: ignore[union-attr]  # it is there
    assert task == {"only": f"{run}:only:1"}


@pytest.mark.hole("H17")
async def test_h17_a_worker_whose_thread_died_ends(bench: Bench) -> None:
    """Nothing would be renewed: it says what happened. Its task stays until its lease ends, and was delivered: it counts."""
    definition = (await bench.prepare(pipeline(stage("only")))).pipeline
    begun = asyncio.Event()

    async def open_circuit(context: TaskContext) -> None:
        # No text that can be stored: the next beat, which tells of open circuits, can't be written.
        circuit = context.circuit("\ud800")
        for _ in range(5):
            with suppress(OSError):
                async with circuit:
                    raise OSError
        begun.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with bench.working("w1", open_circuit, renew_seconds=0.1) as working:
            await begun.wait()
            await asyncio.wait([working], timeout=10)
            assert working.done(), "it works on, and renews nothing"

    run = await bench.submit(definition)
    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.group_contains(UnicodeEncodeError)
    assert [(entry.worker, entry.deliveries) for entry in await bench.open_entries(run)] == [("w1", 1)]
    async with bench.orchestrating(), bench.working("w2"):
        await bench.wait_status("completed", run)
