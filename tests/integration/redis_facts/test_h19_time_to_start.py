"""H19: waiting for a worker is not running, and a start that is found with its end costs no append."""

from __future__ import annotations

import pytest

from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.testing.builders import completed, create_workflow, pipeline, stage, started, workflow_id_in
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.waiting import pass_server_time

BACKLOG = 1000


@pytest.mark.hole("H19")
async def test_h19_a_deep_backlog_does_not_time_out(bench: Bench) -> None:
    """A thousand tasks wait for longer than a task may run: none of them fails for that."""
    runner = await bench.prepare(pipeline(stage("only", timeout_seconds=1.0)))
    runs = [f"run-{number}" for number in range(BACKLOG)]
    now = await bench.store.now()
    appends = [runner.decide_on(None, create_workflow(runner.pipeline, run), now=now) for run in runs]
    for begin in range(0, BACKLOG, 100):
        assert {appended.outcome for appended in await bench.store.append(appends[begin : begin + 100])} == {"ok"}
    await pass_server_time(bench.store, 1.2)
    async with bench.orchestrating(), bench.working(concurrency=16):
        await bench.wait_status("completed", *runs, timeout=40.0)
    states = await bench.store.load_states(runs)
    assert {state and state.stages["only"].attempt for state in states} == {1}


@pytest.mark.failure(22)
@pytest.mark.hole("H19")
async def test_h19_the_time_to_start_counts_from_dispatch(bench: Bench) -> None:
    """Where a stage has one, it is kept also with nobody there to start anything."""
    runner = await bench.prepare(pipeline(stage("only", start_timeout_seconds=0.3, retry=RetryPolicy(max_attempts=1))))
    run = await bench.submit(runner.pipeline)
    async with bench.orchestrating():
        await bench.wait_status("failed", run)
    state = await bench.state(run)
    assert state.error is not None
    assert (state.error.reason, state.error.details["last_reason"]) == ("retry-budget", "start-timeout")


@pytest.mark.hole("H19")
@pytest.mark.parametrize("with_start", [True, False])
async def test_h19_start_and_end_are_one_append(bench: Bench, with_start: bool) -> None:
    """Found together, or the start missing: both events are written by one script call."""
    runner = await bench.prepare(pipeline(stage("first"), stage("second", "first")))
    run = await bench.submit(runner.pipeline, workflow_id_in(0, 2))
    (delivery,) = await bench.queue().take(1, block_seconds=1)
    kinds = (started, completed) if with_start else (completed,)
    task_id = delivery.message.task_id
    assert all(await bench.queue().report([(delivery, kind(task_id), "") for kind in kinds]))
    owned = await bench.store.acquire(0, "o1", None)
    assert owned is not None
    reports = await bench.reports()
    before = await bench.calls_of("evalsha")
    assert await PartitionWork(bench.store, owned).apply_reports(reports) == len(kinds)
    assert await bench.calls_of("evalsha") == before + 1
    assert await bench.reports() == []
    types = [entry.type for entry in (await audit(bench.store))[run]]
    assert types == ["WorkflowCreated", "TaskDispatched", "TaskStarted", "StageCompleted", "TaskDispatched"]
