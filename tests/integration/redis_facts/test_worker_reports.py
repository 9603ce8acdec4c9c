"""What a worker says of its tasks, and what it asks for, costs as few calls as can be."""

from __future__ import annotations

import asyncio
from typing import Any

from tailrace.agents.sdk import TaskContext
from tailrace.core.partitioning import partition_of
from tailrace.core.testing.builders import line, pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.bench import Bench
from tests.support.waiting import eventually


async def test_a_short_task_is_reported_once(bench: Bench) -> None:
    """Its end says that it began, too: the run's history is the same as after two reports."""
    definition = (await bench.prepare(line("only"))).pipeline
    async with bench.working(build="b1"):
        run = await bench.submit(definition)

        async def ended() -> bool:
            return [entry.report.kind for entry in await bench.reports() if entry.report] == ["completed"]

        await eventually(ended, 5.0)
        async with bench.orchestrating():
            await bench.wait_status("completed", run)
    history = await bench.store.read_log(partition_of(run, bench.store.partitions), "0-0", count=100)
    assert [entry.type for entry in history] == [
        "WorkflowCreated",
        "TaskDispatched",
        "TaskStarted",
        "StageCompleted",
        "WorkflowCompleted",
    ]


async def test_a_long_task_says_that_it_began(bench: Bench) -> None:
    """Without waiting for its end; and nothing is said twice."""
    definition = (await bench.prepare(line("only"))).pipeline
    finish = asyncio.Event()

    async def act(context: TaskContext) -> Any:
        await finish.wait()
        return None

    async with bench.working(act=act):
        await bench.submit(definition)

        async def said(*kinds: str) -> bool:
            return tuple(entry.report.kind for entry in await bench.reports() if entry.report) == kinds

        await eventually(lambda: said("started"), 5.0)
        finish.set()
        await eventually(lambda: said("started", "completed"), 5.0)


async def test_a_run_without_its_request_fails_alone(bench: Bench) -> None:
    """Tasks that begin together read their inputs together; one that can't be read stops no other."""
    definition = (await bench.prepare(pipeline(stage("only", retry=RetryPolicy(max_attempts=1))))).pipeline
    runs = [await bench.submit(definition) for _ in range(6)]
    await bench.store.client.command("HDEL", bench.part(runs[2]).workflow(runs[2]), "in")
    async with bench.working(concurrency=8), bench.orchestrating():
        await bench.wait_status("completed", *(run for run in runs if run != runs[2]))
        await bench.wait_status("failed", runs[2])
