"""Latency without load: of a whole run of seven stages, and of one hop from a report to the next task.

The hop is measured by a worker of our own, because entry ids are no finer than a millisecond. It waits in the blocking read
of the task streams, as workers do, while it sends the report about the task before. Its clock runs from just before that
report is sent until the next task is in its hands: the report's script and the disk, the orchestrator's wake-up, its decision,
the append and the disk again, and the wake-up of the reader. Also taken is the time from the report's acknowledgement on,
which leaves its script and the way there out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.table import Table

from tailrace.core.commands import CreateWorkflow, Report
from tailrace.core.ids import new_workflow_id
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import Delivery
from tests.bench.load import PATIENCE_SECONDS, Load
from tests.bench.noop import line
from tests.bench.peers.contract import STEPS, check
from tests.bench.percentile import percentile

#: An agent that only the probe works for.
PROBE: Final = "probe"
#: Enough for one blocking read of every stream of up to 8 partitions.
SLOTS: Final = 64
#: How long the probe's read may be on its way before the report is sent, in seconds.
READ_SECONDS: Final = 0.002


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in milliseconds, over `count` times."""

    what: str
    projector: bool
    count: int
    p50_ms: float
    p99_ms: float
    aim_p50_ms: float | None = None
    aim_p99_ms: float | None = None


async def measure_latency(load: Load, *, runs: int, projector: bool) -> list[Latency]:
    """The run from submit to completed, and the hop, with `runs` runs each."""
    whole = [await _timed(load) for _ in range(runs)]
    hops = await probe_hops(load, runs)
    return [
        _latency("a run, submit → completed", whole, projector, aim_p50_ms=20 if projector else 12, aim_p99_ms=50),
        _latency("a hop, report sent → next task in hand", [sent for sent, _ in hops], projector),
        _latency("a hop, report acknowledged → next task in hand", [told for _, told in hops], projector),
    ]


async def probe_hops(load: Load, runs: int) -> list[tuple[float, float]]:
    """Take `runs` runs from stage to stage: seconds from each report's sending, and from its acknowledgement."""
    queue = RedisTasks(load.store, PROBE, "bench")
    pipeline = await load.store.put_definition(line(STEPS, name=PROBE, agent=PROBE))
    hops: list[tuple[float, float]] = []
    for _ in range(runs):
        workflow_id = new_workflow_id(time.time_ns() // 1000)
        command = CreateWorkflow(workflow_id=workflow_id, definition=pipeline.hash, type=PROBE, name=PROBE)
        await load.handler.create(command, actor="bench")
        task = await _take(queue, workflow_id)
        for _ in range(STEPS - 1):
            taking = asyncio.create_task(_take(queue, workflow_id))
            await asyncio.sleep(READ_SECONDS)
            sent = time.perf_counter()
            await _report(queue, task)
            told = time.perf_counter()
            task = await taking
            taken = time.perf_counter()
            hops.append((taken - sent, taken - told))
        await _report(queue, task)
        load.submitted.append(workflow_id)
    return hops


async def _take(queue: RedisTasks, workflow_id: str) -> Delivery:
    deliveries = await queue.take(SLOTS, block_seconds=PATIENCE_SECONDS)
    found = [delivery.message.workflow_id for delivery in deliveries]
    check(holds=found == [workflow_id], otherwise=f"the probe took tasks of {found or 'nothing'}")
    return deliveries[0]


async def _report(queue: RedisTasks, task: Delivery) -> None:
    report = Report(kind="completed", task_id=task.message.task_id, worker="bench", output={})
    (sent,) = await queue.report([(task, report, task.traceparent)])
    check(holds=sent is True, otherwise=f"the report about {task.message.task_id} was answered with {sent}")


async def _timed(load: Load) -> float:
    begun = time.perf_counter()
    await load.once()
    return time.perf_counter() - begun


def _latency(
    what: str,
    seconds: Sequence[float],
    projector: bool,
    *,
    aim_p50_ms: float | None = None,
    aim_p99_ms: float | None = None,
) -> Latency:
    return Latency(
        what=what,
        projector=projector,
        count=len(seconds),
        p50_ms=1000 * percentile(seconds, 0.5),
        p99_ms=1000 * percentile(seconds, 0.99),
        aim_p50_ms=aim_p50_ms,
        aim_p99_ms=aim_p99_ms,
    )


def latency_table(measured: Sequence[Latency]) -> Table:
    """One row for each figure; what is over its aim is red."""
    table = Table("", "projector", "times", "p50", "p99", title="latency, one run at a time")
    for found in measured:
        table.add_row(
            found.what,
            "runs" if found.projector else "stopped",
            str(found.count),
            _against(found.p50_ms, found.aim_p50_ms),
            _against(found.p99_ms, found.aim_p99_ms),
        )
    return table


def _against(value: float, aim: float | None) -> str:
    if aim is None:
        return f"{value:.2f} ms"
    colour = "green" if value <= aim else "red"
    return f"[{colour}]{value:.2f} ms[/{colour}] (≤ {aim:g})"
