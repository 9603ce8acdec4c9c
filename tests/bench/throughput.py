"""Throughput: how many runs a deployment completes with many of them open, and what each process spends on a task.

The client is this process: it submits the runs and asks how many are open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import msgspec
from rich.table import Table

from tests.bench.deployment import Pids, cpu_seconds
from tests.bench.load import Load
from tests.bench.logged import heads, logged_since
from tests.bench.peers.contract import STEPS
from tests.bench.percentile import percentile


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of seven stages that do nothing, `open_runs` of them open at a time.

    `runs_per_second`: until the last one has ended in the engine; `projected_per_second`: until the read models show it.
    `events_per_second` and the latency of a run are from the log. `cpu_us_per_task`: user and system time by process.
    """

    projector: bool
    runs: int
    open_runs: int
    runs_per_second: float
    projected_per_second: float | None
    latency_p50_ms: float
    latency_p99_ms: float
    events_per_second: float
    event_bytes: float
    cpu_us_per_task: dict[str, float]

    @property
    def title(self) -> str:
        """What tells it from the others of a bench."""
        return "with projector" if self.projector else "projector stopped"


async def measure_throughput(load: Load, pids: Pids, *, runs: int, open_runs: int, projector: bool) -> Throughput:
    """Drive `runs` through; without `projector` the read models are not waited for."""
    begin = await heads(load.store)
    spent = _cpu_seconds(pids)
    begun = time.perf_counter()
    await load.complete(runs, open_runs)
    completed = time.perf_counter() - begun
    if projector:
        await load.wait_projected()
    projected = time.perf_counter() - begun
    used = per_task_us(spent, _cpu_seconds(pids), tasks=runs * STEPS)
    log = await logged_since(load.store, begin)
    return Throughput(
        projector=projector,
        runs=runs,
        open_runs=open_runs,
        runs_per_second=runs / completed,
        projected_per_second=runs / projected if projector else None,
        latency_p50_ms=percentile(log.latencies_ms, 0.5),
        latency_p99_ms=percentile(log.latencies_ms, 0.99),
        events_per_second=log.events / completed,
        event_bytes=log.bytes / log.events,
        cpu_us_per_task=used,
    )


def per_task_us(before: Mapping[str, float], after: Mapping[str, float], *, tasks: int) -> dict[str, float]:
    """What each process that was there before and after spent on a task; in microseconds, from seconds."""
    return {name: (after[name] - seconds) * 1e6 / tasks for name, seconds in before.items() if name in after}


def _cpu_seconds(pids: Pids) -> dict[str, float]:
    times = os.times()
    return {**cpu_seconds(pids), "client": times.user + times.system}


def throughput_table(measured: Sequence[Throughput]) -> Table:
    """One column for each measurement."""
    first = measured[0]
    table = Table(
        "", title=f"throughput: {first.runs} runs of {STEPS} stages that do nothing, {first.open_runs} open at a time"
    )
    for found in measured:
        table.add_column(found.title, justify="right")
    table.add_row("runs/s, engine", *(f"{found.runs_per_second:.0f}" for found in measured))
    projected = (found.projected_per_second for found in measured)
    table.add_row("runs/s, shown by the read models", *("" if rate is None else f"{rate:.0f}" for rate in projected))
    latencies = (f"{found.latency_p50_ms:.0f} / {found.latency_p99_ms:.0f} ms" for found in measured)
    table.add_row("latency of a run meanwhile, p50 / p99", *latencies)
    table.add_row("events/s", *(f"{found.events_per_second:.0f}" for found in measured))
    table.add_row("bytes of an event", *(f"{found.event_bytes:.0f}" for found in measured), end_section=True)
    for name in first.cpu_us_per_task:
        table.add_row(f"CPU per task, {name}", *(f"{found.cpu_us_per_task.get(name, 0):.0f} µs" for found in measured))
    table.add_row("CPU per task, all", *(f"{sum(found.cpu_us_per_task.values()):.0f} µs" for found in measured))
    return table
