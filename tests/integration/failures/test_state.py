"""Runs whose state says something else than what happened: results dropped, ends unseen, progress that stands."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.sdk import TaskContext, TaskError
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.events import TERMINAL
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.testing.builders import completed, create_workflow, diamond, line, pipeline, stage, workflow_id_in
from tailrace.core.testing.runner import Runner
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.projections.queries import Queries
from tailrace.projections.watchdog import diagnose
from tailrace.projections.watchdog.read_model import LAG
from tests.integration.projections.support import projecting
from tests.support.audit import audit, decided_again, record
from tests.support.bench import Bench
from tests.support.waiting import eventually


@pytest.mark.failure(17)
async def test_f17_a_result_counts_while_its_run_is_paused(bench: Bench) -> None:
    """It comes in a pause and is applied in it; with the end of the pause the next stage is dispatched."""
    definition = (await bench.prepare(line("first", "second"))).pipeline
    run = await bench.submit(definition)
    queue = bench.queue()
    (delivery,) = await queue.take(1, block_seconds=1)
    await bench.handler.execute(run, PauseWorkflow(), actor="test")
    assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]

    async def applied() -> bool:
        return (await bench.state(run)).stages["first"].status == "completed"

    async with bench.orchestrating():
        await eventually(applied)
        assert (await bench.state(run)).status == "paused"
        assert await queue.take(1, block_seconds=0) == []
        await bench.handler.execute(run, ResumeWorkflow(), actor="test")
        (delivery,) = await queue.take(1, block_seconds=1)
        assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]
        await bench.wait_status("completed", run)


@pytest.mark.failure(19)
@pytest.mark.failure(21)
async def test_f19_many_hands_make_one_history(bench: Bench) -> None:
    """Two orchestrators and six people move the same runs at once: each history is one chain of decisions."""
    definition = (await bench.prepare(diamond())).pipeline
    runs = [await bench.submit(definition) for _ in range(6)]

    async def meddle() -> None:
        for _ in range(4):
            for run in runs:
                for command in (PauseWorkflow(), ResumeWorkflow()):
                    if not (await bench.state(run)).terminal:
                        await asyncio.gather(
                            *(bench.handler.execute(run, command, actor=f"person-{n}") for n in range(2)),
                            return_exceptions=True,
                        )

    async with bench.orchestrating("o1"), bench.orchestrating("o2"):
        async with bench.working("w1"), bench.working("w2"), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(meddle())
        for run in runs:
            if (await bench.state(run)).status == "paused":
                await bench.handler.execute(run, ResumeWorkflow(), actor="test")
        async with bench.working("w3"):
            await bench.wait_status("completed", *runs)
    logs = await audit(bench.store)
    paused = 0
    for entries in logs.values():
        assert await decided_again(bench.store, entries) == [(entry.type, entry.data) for entry in entries]
        paused += sum(entry.type == "WorkflowPaused" for entry in entries)
    assert paused > 0, "nobody got in between"


@pytest.mark.failure(22)
async def test_f22_every_end_is_an_event_with_its_reason(bench: Bench) -> None:
    """A run that fails with its first word, one that is cancelled before anybody begins, one that completes."""
    once = pipeline(stage("only", retry=RetryPolicy(max_attempts=1)))
    definition = (await bench.prepare(once)).pipeline

    async def act(context: TaskContext) -> None:
        if context.workflow_id == "fails":
            raise TaskError("no-credit", "pay first")

    cancelled = await bench.submit(definition, "waits")
    await bench.handler.execute(cancelled, CancelWorkflow(reason="not needed"), actor="test")
    async with bench.orchestrating(), bench.working(act=act):
        failed, done = await bench.submit(definition, "fails"), await bench.submit(definition, "succeeds")
        await bench.wait_status("failed", failed)
        await bench.wait_status("completed", done)
    logs = await audit(bench.store)
    ends = {
        run: [(entry.type, record(entry).event) for entry in logs[run] if entry.type in TERMINAL]
        for run in (failed, cancelled, done)
    }
    assert {run: [name for name, _ in found] for run, found in ends.items()} == {
        failed: ["WorkflowFailed"],
        cancelled: ["WorkflowCancelled"],
        done: ["WorkflowCompleted"],
    }
    state = await bench.state(failed)
    assert state.error is not None
    assert (state.status, state.error.reason, state.error.message) == ("failed", "no-credit", "pay first")
    assert (await bench.state(cancelled)).status == "cancelled"
    assert "not needed" in repr(ends[cancelled])


@pytest.mark.failure(23)
async def test_f23_progress_moves_with_the_work(bench: Bench) -> None:
    """After each of four stages it is a quarter more, as soon as the stage has ended."""
    definition = (await bench.prepare(line("a", "b", "c", "d"))).pipeline
    seen: list[int] = []

    async def act(context: TaskContext) -> None:
        seen.append((await bench.state(context.workflow_id)).progress_percentage)

    async with bench.orchestrating(), bench.working(act=act):
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
    assert seen == [0, 25, 50, 75]
    assert (await bench.state(run)).progress_percentage == 100


@pytest.mark.failure(23)
async def test_f23_a_read_model_that_is_behind_is_named(redis_store: RedisStore, database_url: str) -> None:
    """Nobody projects: what lists show is old, the run is fine, and `why` says both."""
    runner = Runner(redis_store, line("only"))
    await runner.prepare()
    run = workflow_id_in(0, 2)
    async with Queries(database_url) as queries:

        async def projected() -> bool:
            return all(row.seq > 0 for row in await queries.checkpoints() if row.partition == 0)

        async with projecting(database_url, redis_store):
            await runner.create(run)
            await eventually(projected)
        await runner.carry_out(run, CancelWorkflow())
        found = await diagnose(redis_store, run, read_model=queries)
        assert (found.cause, found.healthy) == (None, True)
        others = [workflow_id_in(0, 2, number=number) for number in range(2, LAG // 2 + 3)]
        now = await redis_store.now()
        appends = [runner.decide_on(None, create_workflow(runner.pipeline, other), now=now) for other in others]
        assert {appended.outcome for appended in await redis_store.append(appends)} == {"ok"}
        found = await diagnose(redis_store, run, read_model=queries)
        assert (found.cause, found.healthy) == ("projection-behind", True)
        assert found.evidence["lag"] > LAG
