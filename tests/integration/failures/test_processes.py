"""Processes that are there and not right: yesterday's code, and services behind an agent that are down."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tailrace.agents.breaker import Breaker
from tailrace.agents.sdk import TaskContext
from tailrace.core.events import TaskStarted
from tailrace.core.testing.builders import line, pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.projections.watchdog import Check, Diagnosis, check_store, diagnose
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.waiting import eventually

OPEN_SECONDS = 3.0


@pytest.mark.failure(27)
async def test_f27_workers_of_two_builds_are_named(bench: Bench) -> None:
    """Yesterday's worker beside today's: `doctor` names both builds with their workers, and each start in the log says by
    which code it was.
    """
    definition = (await bench.prepare(line("only"))).pipeline
    both = asyncio.Event()
    begun: set[str] = set()

    async def act(context: TaskContext) -> None:
        begun.add(context.task_id)
        if len(begun) == 2:
            both.set()
        await both.wait()

    async def named() -> Check | None:
        (check,) = [check for check in await check_store(bench.store) if check.name == "builds"]
        return check if check.status != "ok" else None

    async with (
        bench.orchestrating(),
        bench.working("old", act, build="b1", concurrency=1),
        bench.working("new", act, build="b2", concurrency=1),
    ):
        runs = [await bench.submit(definition) for _ in range(2)]
        check = await eventually(named)
        assert check is not None
        assert (check.status, check.detail) == ("warning", "b1: agent/old; b2: agent/new")
        assert "restart" in check.suggestion
        await bench.wait_status("completed", *runs)
    events = [record(entry).event for entries in (await audit(bench.store)).values() for entry in entries]
    starts = {(event.worker, event.build) for event in events if isinstance(event, TaskStarted)}
    assert starts == {("old", "b1"), ("new", "b2")}


@pytest.mark.failure(31)
async def test_f31_a_service_that_is_down_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five failures in a row it is not called any more; `why` and `doctor` name it, not the pipeline. When it is back the
    run completes by itself.
    """
    monkeypatch.setattr("tailrace.agents.context.Breaker", partial(Breaker, open_seconds=OPEN_SECONDS))
    retry = RetryPolicy(max_attempts=50, backoff_seconds=0.4, factor=1.0)
    definition = (await bench.prepare(pipeline(stage("only", retry=retry)))).pipeline
    down, calls = True, 0

    async def act(context: TaskContext) -> str:
        nonlocal calls
        async with context.circuit("model-api"):
            calls += 1
            if down:
                raise ConnectionRefusedError("no credit")
        return "answer"

    async with bench.orchestrating(), bench.working(act=act, renew_seconds=0.2):
        run = await bench.submit(definition)

        async def explained() -> Diagnosis | None:
            found = await diagnose(bench.store, run)
            return found if found.cause == "dependency-open" else None

        diagnosis = await eventually(explained)
        assert diagnosis is not None
        assert (diagnosis.hop, diagnosis.healthy) == ("worker", False)
        assert "model-api" in diagnosis.summary
        assert calls == 5, "it is not called while its breaker is open"
        checks = [check.detail for check in await check_store(bench.store) if check.name == "agent agent"]
        assert any("can't reach model-api" in detail for detail in checks), checks
        down = False
        await bench.wait_status("completed", run)
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    assert snapshot.stage_outputs() == {"only": "answer"}
