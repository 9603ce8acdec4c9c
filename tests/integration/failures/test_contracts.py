"""Messages that one side writes and the other does not understand: envelopes, names of stages, actions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.codec import encode
from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput
from tailrace.core.redis_backend import scripts
from tailrace.core.store.port import ParkedEntry
from tailrace.core.testing.builders import completed, diamond, line, pipeline, stage, started, workflow_id_in
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.projections.watchdog import diagnose
from tests.support.bench import Bench
from tests.support.engine_process import make_worker
from tests.support.waiting import beside, eventually


def envelopes(report: dict[str, Any]) -> dict[str, bytes]:
    """What somebody might send who has another idea of a report."""
    return {
        "one level too deep": msgspec.msgpack.encode({"data": report}),
        "two levels too deep": msgspec.msgpack.encode({"event": {"data": report}}),
        "in a list": msgspec.msgpack.encode([report]),
        "as JSON": json.dumps(report).encode(),
        "as text in msgpack": msgspec.msgpack.encode(json.dumps(report)),
        "with other names": msgspec.msgpack.encode({"type": report["kind"], "taskId": report["task_id"]}),
        "nothing": b"",
    }


@pytest.mark.failure(11)
async def test_f11_another_envelope_is_parked_with_its_reason(bench: Bench) -> None:
    """It is not unwrapped by guess, and stands in nobody's way: the report behind it is applied."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition, workflow_id_in(0, 2))
    queue, part = bench.queue(), bench.part(run)
    (delivery,) = await queue.take(1, block_seconds=1)
    right = msgspec.to_builtins(completed(delivery.message.task_id, "guessed"))
    wrong = envelopes(right)
    for data in wrong.values():
        fields = ("workflow", run, "task", delivery.message.task_id, "traceparent", "", "data", data)
        await bench.store.client.command("XADD", part.reports, "*", *fields)

    async def parked() -> bool:
        return (await bench.store.partition_facts(0)).parked == len(wrong)

    async with bench.orchestrating():
        await eventually(parked)
        assert (await bench.state(run)).stages["only"].task is not None
        assert await queue.report([(delivery, completed(delivery.message.task_id, "as agreed"), "")]) == [True]
        await bench.wait_status("completed", run)
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    assert snapshot.stage_outputs() == {"only": "as agreed"}
    kept = [
        dict(zip(fields[::2], fields[1::2], strict=True))
        for _, fields in await bench.store.client.command("XRANGE", part.parked, "-", "+")
    ]
    assert [fields[b"data"] for fields in kept] == list(wrong.values())
    assert all(fields[b"reason"].startswith(b"report can't be read") for fields in kept)


@pytest.mark.failure(13)
async def test_f13_an_agent_can_not_name_a_stage(bench: Bench) -> None:
    """Whatever its result says of stages, tasks and outcomes is a value like any other; the run goes its own way."""
    assert not {"stage", "stages", "workflow_id"} & set(Report.__struct_fields__)
    definition = (await bench.prepare(line("first", "second", "third"))).pipeline
    begun: list[str] = []

    async def act(context: TaskContext) -> dict[str, Any]:
        begun.append(context.task_id)
        return {"stage": "third", "task_id": f"{context.workflow_id}:third:1", "kind": "failed", "status": "failed"}

    async with bench.orchestrating(), bench.working(act=act):
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
    assert begun == [f"{run}:{name}:1" for name in ("first", "second", "third")]
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    assert list(snapshot.stage_outputs()) == ["first", "second", "third"]


@pytest.mark.failure(13)
async def test_f13_a_report_on_another_task_ends_nothing(bench: Bench) -> None:
    """Our worker refuses to send it. From a worker that sends it all the same it is parked with the reason: the task that it
    names is not ended by who does not hold it, and the run whose entry was given away says why it stands.
    """
    definition = (await bench.prepare(diamond())).pipeline
    run = await bench.submit(definition, workflow_id_in(0, 2))
    queue, part = bench.queue(), bench.part(run)
    async with bench.orchestrating():
        (first,) = await queue.take(1, block_seconds=1)
        assert await queue.report([(first, completed(first.message.task_id), "")]) == [True]
        held = [delivery for _ in range(2) for delivery in await queue.take(1, block_seconds=5)]
        mine, other = held
        wrong = completed(other.message.task_id, "not mine")
        (refused,) = await queue.report([(mine, wrong, "")])
        assert isinstance(refused, InvalidInput)
        assert await queue.report([(mine, started(mine.message.task_id), "")]) == [True]

        place = (mine.entry_id, mine.delivery, "1", mine.message.task_id, run, "")
        sent = await bench.store.client.call(
            scripts.REPORT, [part.reports, part.cancels, mine.stream], ["agent", "w1", 1, 1, *place, encode(wrong)]
        )
        assert sent == [b"ok"], "the fence can't know: who sends it holds the entry"

        async def parked() -> Sequence[ParkedEntry]:
            return await bench.store.parked(0, count=10)

        (entry,) = await eventually(parked)
        assert (entry.workflow_id, entry.task_id) == (run, mine.message.task_id)
        assert other.message.task_id in entry.reason
        stages = (await bench.state(run)).stages
        assert all(stages[delivery.message.stage].task is not None for delivery in held)
        diagnosis = await diagnose(bench.store, run)
        assert (diagnosis.cause, diagnosis.hop) == ("report-rejected", "transition")
        assert await queue.report([(other, completed(other.message.task_id, "its own"), "")]) == [True]


@pytest.mark.failure(15)
async def test_f15_an_action_that_an_agent_lacks_is_nobody_elses(bench: Bench) -> None:
    """The stage fails at once, with the actions that there are; none of them stands in for it."""
    retry = RetryPolicy(max_attempts=3)
    definition = (await bench.prepare(pipeline(stage("deploi", retry=retry)))).pipeline
    agent, begun = Agent("agent"), 0

    @agent.action("deploy")
    async def deploy(context: TaskContext, input: TaskInput) -> None:
        nonlocal begun
        begun += 1

    stop = asyncio.Event()
    async with bench.orchestrating(), beside(make_worker(bench.store, agent, "w1", bench.folder).run(stop)):
        run = await bench.submit(definition)
        await bench.wait_status("failed", run)
        stop.set()
    state = await bench.state(run)
    assert state.error is not None
    assert (state.error.reason, state.stages["deploi"].attempt, begun) == ("unknown-action", 1, 0)
    assert "deploy" in state.error.message
