"""H28: a task id is given once, whatever happens to its run; a task that is sent again is the same one, with one entry."""

from __future__ import annotations

import pytest

from tailrace.core.commands import RetryWorkflow
from tailrace.core.events import TaskDispatched, TaskRedispatched
from tailrace.core.testing.builders import completed, line, workflow_id_in
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.waiting import eventually


@pytest.mark.hole("H28")
async def test_h28_attempts_count_on_over_a_retry(bench: Bench) -> None:
    """Three rounds of one run: no id comes twice."""
    definition = (await bench.prepare(line("first", "second"))).pipeline
    async with bench.orchestrating(), bench.working():
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
        for stage in ("first", "second"):
            await bench.handler.execute(run, RetryWorkflow(from_stage=stage), actor="test")
            await bench.wait_status("completed", run)
    events = [record(entry).event for entry in (await audit(bench.store))[run]]
    ids = [event.task_id for event in events if isinstance(event, TaskDispatched)]
    assert ids == [f"{run}:{name}" for name in ("first:1", "second:1", "first:2", "second:2", "second:3")]


@pytest.mark.hole("H28")
async def test_h28_a_task_that_is_sent_again_has_one_entry(bench: Bench) -> None:
    """Its entry was deleted while somebody held it: same id, another entry, and the old holder's result does not count."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition, workflow_id_in(0, 2))
    queue = bench.queue("w1")
    (old,) = await queue.take(2, block_seconds=1)
    assert await bench.store.client.command("XDEL", old.stream, old.entry_id) == 1
    assert [renewal.outcome for renewal in await queue.renew([old])] == ["lost"]

    async def sent_again() -> bool:
        return [entry.state for entry in await bench.open_entries(run)] == ["queued"]

    async with bench.orchestrating():
        await eventually(sent_again)
        (new,) = await bench.queue("w2").take(2, block_seconds=1)
        assert (new.message.task_id, new.entry_id != old.entry_id) == (old.message.task_id, True)
        assert await bench.store.client.command("XLEN", new.stream) == 1
        assert await queue.report([(old, completed(old.message.task_id, "old"), "")]) == [False]
        report = completed(new.message.task_id, "new", worker="w2")
        assert await bench.queue("w2").report([(new, report, "")]) == [True]
        await bench.wait_status("completed", run)
    events = [record(entry).event for entry in (await audit(bench.store))[run]]
    assert sum(isinstance(event, TaskRedispatched) for event in events) == 1
    assert sum(isinstance(event, TaskDispatched) for event in events) == 1
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    assert snapshot.stage_outputs() == {"only": "new"}
