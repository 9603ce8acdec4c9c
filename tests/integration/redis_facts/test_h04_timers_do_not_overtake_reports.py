"""H4: work that was reported before its time was up is never timed out, however late it is applied."""

from __future__ import annotations

import pytest

from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.events import TaskFailed
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import TimerRef
from tailrace.core.testing.builders import completed, pipeline, stage, started
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.waiting import eventually, pass_server_time

RUNS = 12


@pytest.mark.hole("H4")
async def test_h04_timers_do_not_overtake_durable_reports(bench: Bench) -> None:
    """All orchestrators were away while work was finished and its time ran out: the work counts."""
    timed = (await bench.prepare(pipeline(stage("only", timeout_seconds=1.0)))).pipeline
    runs = [await bench.submit(timed) for _ in range(RUNS)]
    queue = bench.queue()
    held = [found for _ in range(4) for found in await queue.take(RUNS, block_seconds=0.1)]
    assert len(held) == RUNS
    await queue.report([(delivery, started(delivery.message.task_id), "") for delivery in held])
    async with bench.orchestrating():
        await bench.wait_status("running", *runs)
    await queue.report([(delivery, completed(delivery.message.task_id), "") for delivery in held])
    await pass_server_time(bench.store, 1.2)

    for partition in range(bench.store.partitions):
        expected = sum(partition_of(run, 2) == partition for run in runs)
        # Nobody polled for a while: on a slow machine that is an outage, and then timers rest for a lease.
        due = await eventually(lambda partition=partition, expected=expected: _due(bench, partition, expected))  # type: ignore[misc]
        owned = await bench.store.acquire(partition, "o1", None)
        assert owned is not None
        assert due is not None
        # The worst order: timers before reports. The store lets none of them pass.
        assert await PartitionWork(bench.store, owned).fire_timers(due) == 0
        await bench.store.release_ownership(owned)
    async with bench.orchestrating():
        await bench.wait_status("completed", *runs)
    logs = await audit(bench.store)
    assert not [entry for log in logs.values() for entry in log if isinstance(record(entry).event, TaskFailed)]


async def _due(bench: Bench, partition: int, expected: int) -> list[TimerRef] | None:
    due, _ = await bench.store.due_timers(partition, count=100)
    return due if len(due) == expected else None


@pytest.mark.hole("H4")
async def test_h04_a_timer_fires_though_younger_reports_wait(bench: Bench) -> None:
    """A stream that is never empty must not keep timers waiting for ever."""
    runner = await bench.prepare(pipeline(stage("only", start_timeout_seconds=0.3)))
    late = await bench.submit(runner.pipeline, "late")
    await pass_server_time(bench.store, 0.4)
    partition = partition_of(late, bench.store.partitions)
    fields = ("workflow", late, "task", "", "traceparent", "", "data", b"\xc1")
    await bench.store.client.command("XADD", bench.part(late).reports, "*", *fields)
    owned = await bench.store.acquire(partition, "o1", None)
    assert owned is not None
    due, _ = await bench.store.due_timers(partition, count=100)
    assert await PartitionWork(bench.store, owned).fire_timers(due) == 1
    assert (await bench.state(late)).stages["only"].task is None
