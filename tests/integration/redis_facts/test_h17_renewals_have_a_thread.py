"""H17: a handler that blocks the event loop for longer than a lease keeps its task."""

from __future__ import annotations

import time

from tailrace.agents.sdk import TaskContext
from tailrace.core.testing.builders import pipeline, stage
from tests.support.bench import Bench
from tests.support.engine_process import program

BLOCK_SECONDS = 3.6


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
