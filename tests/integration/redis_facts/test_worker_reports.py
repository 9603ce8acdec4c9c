"""What a worker says of its tasks, and what it asks for, costs as few calls as can be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.agents.reporter import Reporter
from tailrace.agents.sdk import TaskContext, TaskError
from tailrace.core.errors import InvalidInput
from tailrace.core.events import TaskProgressed
from tailrace.core.partitioning import partition_of
from tailrace.core.store.inputs import GIVEN_BYTES
from tailrace.core.testing.builders import completed, line, pipeline, stage, workflow_id_in
from tailrace.core.testing.builders import started as begun
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.audit import record
from tests.support.bench import Bench
from tests.support.waiting import beside, eventually


async def test_a_short_task_is_reported_once(bench: Bench) -> None:
    """Its end says that it began, too: the run's history is the same as after two reports."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition)
    queue = bench.queue()
    (delivery,) = await queue.take(1, block_seconds=1)
    reporter = Reporter(queue)
    reporter.start(delivery, begun(delivery.message.task_id), "")
    sent = reporter.send_nowait(delivery, completed(delivery.message.task_id), "")
    async with beside(reporter.run()):
        assert await sent
    assert [entry.report.kind for entry in await bench.reports() if entry.report] == ["completed"]
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


@pytest.mark.failure(4)
async def test_what_a_handler_says_can_not_end_its_worker(bench: Bench) -> None:
    """Text that no log takes is made into text, a number into a number."""
    definition = (await bench.prepare(line("only"))).pipeline

    async def act(context: TaskContext) -> Any:
        await context.progress(1, "\ud800 \x00 bad")
        raise TaskError("\ud800", "\udfff", details={"value": float("nan")})

    async with bench.working(act=act), bench.orchestrating():
        run = await bench.submit(definition)
        await bench.wait_status("failed", run)
    entries = await bench.store.read_log(partition_of(run, bench.store.partitions), "0-0", count=100)
    (progressed,) = [record(entry).event for entry in entries if entry.type == "TaskProgressed"]
    assert isinstance(progressed, TaskProgressed)
    assert (progressed.fraction, progressed.message) == (1.0, "? \N{REPLACEMENT CHARACTER} bad")


async def test_a_report_that_can_not_be_encoded_stops_no_other(bench: Bench) -> None:
    """It is answered as invalid; the others of its batch are written."""
    definition = (await bench.prepare(line("only"))).pipeline
    runs = [await bench.submit(definition) for _ in range(2)]
    queue = bench.queue()
    held = await queue.take(2, block_seconds=1)
    assert {delivery.message.workflow_id for delivery in held} == set(runs)
    bad, good = (completed(delivery.message.task_id) for delivery in held)
    answers = await queue.report([(held[0], replace(bad, message="\ud800"), ""), (held[1], good, "")])
    assert isinstance(answers[0], InvalidInput)
    assert answers[1] is True


@pytest.mark.failure(8)
async def test_a_broken_partition_stops_no_other(bench: Bench) -> None:
    """Its reports wait until its key is mended; those of the other partition leave, and its leases are renewed."""
    definition = (await bench.prepare(line("only"))).pipeline
    runs = [workflow_id_in(partition, bench.store.partitions) for partition in range(2)]
    finish = asyncio.Event()

    async def act(context: TaskContext) -> Any:
        await finish.wait()
        return None

    async with bench.working(act=act, renew_seconds=0.1), bench.orchestrating():
        for run in runs:
            await bench.submit(definition, run)
        await eventually(lambda: started(bench, runs), 5.0)
        broken = bench.store.keys.partition(0).reports
        await bench.store.client.command("RENAME", broken, f"{broken}:aside")
        await bench.store.client.command("SET", broken, "nonsense")
        finish.set()
        await bench.wait_status("completed", runs[1])
        await bench.store.client.command("DEL", broken)
        await bench.wait_status("completed", runs[0])


async def started(bench: Bench, runs: list[str]) -> bool:
    """Whether all these runs' tasks have begun, and no report waits."""
    states = await bench.store.load_states(runs)
    return all(state is not None and state.started for state in states) and not await bench.reports()


async def test_a_run_without_its_request_fails_alone(bench: Bench) -> None:
    """Tasks that begin together read their inputs together; one that can't be read stops no other."""
    definition = (await bench.prepare(pipeline(stage("only", retry=RetryPolicy(max_attempts=1))))).pipeline
    # (A request that is too large to go with the task.)
    runs = [await bench.submit(definition, requirements="x" * GIVEN_BYTES) for _ in range(6)]
    await bench.store.client.command("HDEL", bench.part(runs[2]).workflow(runs[2]), "in")
    async with bench.working(concurrency=8), bench.orchestrating():
        await bench.wait_status("completed", *(run for run in runs if run != runs[2]))
        await bench.wait_status("failed", runs[2])
