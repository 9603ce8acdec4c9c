"""H9: the log holds the commands, so that its events can be decided again, byte for byte."""

from __future__ import annotations

from collections import Counter

import pytest

from tailrace.agents.sdk import TaskContext, TaskError
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow, RetryWorkflow
from tailrace.core.testing.builders import pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.audit import audit, decided_again, record
from tests.support.bench import Bench
from tests.support.waiting import eventually

TWICE = RetryPolicy(max_attempts=2, backoff_seconds=0.05)


@pytest.mark.hole("H9")
async def test_h09_every_event_follows_from_the_commands_in_the_log(bench: Bench) -> None:
    """A life with failures, time-outs, a pause, a cancellation and a retry, as real processes wrote it."""
    stages = (stage("first", retry=TWICE), stage("second", "first", timeout_seconds=0.3, retry=TWICE))
    definition = (await bench.prepare(pipeline(*stages))).pipeline
    seen: Counter[str] = Counter()

    async def act(context: TaskContext) -> dict[str, object]:
        stage_name = context.task_id.split(":")[1]
        seen[stage_name] += 1
        if stage_name == "first" and seen["first"] == 1:
            raise TaskError("not-yet", "the first attempt fails", retryable=True, details={"n": 1.5})
        if stage_name == "second" and seen["second"] <= 2:
            await context.progress(0.5, "half")
            await eventually(lambda: _cancelled(context))
        return {"text": "\N{SNOWMAN}", "list": [None, True, 2**63]}

    async with bench.orchestrating(), bench.working(act=act, renew_seconds=0.05):
        run = await bench.submit(definition, input={"deep": [{"er": 1}]}, labels={"a": "b"})
        await bench.wait_status("failed", run)
        await bench.handler.execute(
            run, RetryWorkflow(), actor="a person", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        )
        await bench.wait_status("completed", run)
    # (With nobody at work: it must not be over before it is paused.)
    other = await bench.submit(definition)
    await bench.handler.execute(other, PauseWorkflow(reason="lunch"), actor="a person")
    await bench.handler.execute(other, ResumeWorkflow(), actor="a person")
    await bench.handler.execute(other, CancelWorkflow(reason="enough"), actor="a person")
    logs = await audit(bench.store)
    types = Counter(entry.type for entries in logs.values() for entry in entries)
    assert types["TaskFailed"] >= 3
    assert {"TaskProgressed", "WorkflowFailed", "WorkflowRetried", "WorkflowCompleted", "WorkflowCancelled"} <= set(
        types
    )
    for entries in logs.values():
        assert record(entries[0]).command is not None
        assert await decided_again(bench.store, entries) == [(entry.type, entry.data) for entry in entries]


async def _cancelled(context: TaskContext) -> bool:
    return context.cancelled
