"""H37: deliveries count from 1 again after a group was lost; what its members held is dropped, and nobody fails for it."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.testing.builders import pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.bench import Bench


@pytest.mark.hole("H37")
async def test_h37_a_task_whose_group_is_lost_runs_again(bench: Bench) -> None:
    """In the same worker, whose first handler ends without a word: its one attempt is not spent."""
    definition = (await bench.prepare(pipeline(stage("only", retry=RetryPolicy(max_attempts=1))))).pipeline
    begun = 0
    first = asyncio.Event()

    async def act(context: TaskContext) -> int:
        nonlocal begun
        begun += 1
        if begun == 1:
            first.set()
            await asyncio.Event().wait()
        return begun

    async with bench.working(act=act, renew_seconds=0.1, claim_poll_seconds=0.1), bench.orchestrating():
        run = await bench.submit(definition)
        await first.wait()
        part = bench.part(run)
        for urgent in (True, False):
            await bench.store.client.command("XGROUP", "DESTROY", part.tasks("agent", urgent=urgent), "agent")
        await bench.wait_status("completed", run)
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    assert snapshot.stage_outputs() == {"only": 2}
