"""Growth: what it costs the runs that move that so many others are open and wait.

Those that wait stand at a stage whose agent has no worker, and nobody expects it to start soon; each has a place among the open
runs, a task in a stream, and rows. Beside them 100 runs at a time go through seven stages that do nothing. Each size has a
deployment of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from tailrace.core.redis_backend.replies import info
from tailrace.core.redis_backend.store import RedisStore
from tests.acceptance.waiting import until
from tests.bench.deployment import Deployment, Pids, cpu_seconds, pss_bytes, running_up
from tests.bench.figures import Figure
from tests.bench.load import Load
from tests.bench.noop import WORKER, line
from tests.bench.peers.contract import STEPS, check
from tests.bench.throughput import Throughput, measure_throughput

#: The agent that nobody works for, and how long it may take until the watchdog asks why: longer than this runs.
NOBODY: Final = "nobody"
PATIENT_SECONDS: Final = 86_400.0
#: How often what takes its time is asked about, and how long it may take at most; in seconds.
LOOK_SECONDS: Final = 0.2
SETTLE_SECONDS: Final = 120.0

#: What a waiting run may take in Redis without the log, and the least share of its throughput that an engine with the most
#: runs open keeps of that with the fewest.
RUN_BYTES: Final = 4096
LEAST_RATIO: Final = 0.8

MATRIX_OPEN: Final = (1_000, 10_000, 100_000)
MATRIX_PARTITIONS: Final = (1, 2, 4, 8)
#: The row and the column of the matrix that are measured when not all of it is.
ROW_PARTITIONS: Final = 2
COLUMN_OPEN: Final = 10_000


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs wait, and in how many partitions."""

    waiting: int
    partitions: int


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment of that size.

    `run_bytes`: what Redis has grown by for each waiting run, without the log. `event_bytes`: MEMORY USAGE of the log for
    each event. `orchestrator_seconds`: from its end until the one after it has completed a run. Memory is proportional (PSS),
    with the waiting runs open and before the load; idle CPU likewise, in percent of a core.
    """

    size: Size
    created_per_second: float
    run_bytes: float
    event_bytes: float
    memory_mb: dict[str, float]
    idle_cpu_percent: dict[str, float]
    orchestrator_seconds: float
    load: Throughput


def sizes(*, full: bool) -> list[Size]:
    """All of the matrix, or one row and one column of it."""
    return [
        Size(waiting=waiting, partitions=partitions)
        for waiting in MATRIX_OPEN
        for partitions in MATRIX_PARTITIONS
        if full or partitions == ROW_PARTITIONS or waiting == COLUMN_OPEN
    ]


def measure_growth(size: Size, *, runs: int, open_runs: int, idle_seconds: float, say: Callable[[str], None]) -> Grown:
    """Start a deployment, let it grow, and drive `runs` runs through it."""
    settings = {"TAILRACE_PARTITIONS": str(size.partitions)}
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder,
        running_up(Path(folder), *WORKER, settings=settings) as deployment,
    ):
        return asyncio.run(
            _measure(size, deployment, runs=runs, open_runs=open_runs, idle_seconds=idle_seconds, say=say)
        )


async def _measure(
    size: Size, deployment: Deployment, *, runs: int, open_runs: int, idle_seconds: float, say: Callable[[str], None]
) -> Grown:
    async with Load.opened(deployment.redis_url, deployment.postgres_url) as load:
        await load.drive(open_runs, open_runs)  # connections are made, modules imported, statements prepared
        await _settle(load.store)
        before = await _used_bytes(load.store)
        begun = time.perf_counter()
        patient = line(STEPS, name=NOBODY, agent=NOBODY, patience_seconds=PATIENT_SECONDS)
        for tenth in range(10):
            say(f"{tenth}0 % of the runs wait")
            await load.leave_open(patient, size.waiting // 10)
        created = time.perf_counter() - begun
        say("until the read models show the runs that wait")
        await load.wait_projected()
        await _settle(load.store)
        run_bytes = (await _used_bytes(load.store) - before) / size.waiting
        memory = {name: value / 1e6 for name, value in pss_bytes(deployment.pids).items()}
        say("idle")
        idle = await _idle_percent(deployment.pids, idle_seconds)
        say("another orchestrator")
        replaced = await _replace_orchestrator(load, deployment)
        say(f"{runs} runs")
        driven = await measure_throughput(load, deployment.pids, runs=runs, open_runs=open_runs, projector=True)
        return Grown(
            size=size,
            created_per_second=size.waiting / created,
            run_bytes=run_bytes,
            event_bytes=await _log_bytes(load.store) / await _events(load.store),
            memory_mb=memory,
            idle_cpu_percent=idle,
            orchestrator_seconds=replaced,
            load=driven,
        )


async def _settle(store: RedisStore) -> None:
    """Until Redis does not rewrite its file: that takes a core meanwhile, and memory."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        lines = info(await store.client.command("INFO", "persistence"))
        if lines["aof_rewrite_in_progress"] == lines["aof_rewrite_scheduled"] == "0":
            return
        check(holds=time.monotonic() < deadline, otherwise="Redis does not come to the end of rewriting its file")
        await asyncio.sleep(LOOK_SECONDS)


async def _used_bytes(store: RedisStore) -> int:
    """What Redis uses, without the log."""
    used = int(info(await store.client.command("INFO", "memory"))["used_memory"])
    return used - await _log_bytes(store)


async def _log_bytes(store: RedisStore) -> int:
    parts = [store.keys.partition(number) for number in range(store.partitions)]
    return sum(await store.client.pipeline([("MEMORY", "USAGE", part.log, "SAMPLES", 0) for part in parts]))


async def _events(store: RedisStore) -> int:
    """How many entries the log has."""
    parts = [store.keys.partition(number) for number in range(store.partitions)]
    return sum(await store.client.pipeline([("XLEN", part.log) for part in parts]))


async def _idle_percent(pids: Pids, idle_seconds: float) -> dict[str, float]:
    before, begun = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(idle_seconds)
    seconds = time.perf_counter() - begun
    return {name: 100 * (used - before[name]) / seconds for name, used in cpu_seconds(pids).items()}


async def _replace_orchestrator(load: Load, deployment: Deployment) -> float:
    """Seconds from the end of the orchestrator until a run is complete that was submitted meanwhile."""
    pid = deployment.pids["orchestrator"]
    begun = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    await load.once()
    seconds = time.perf_counter() - begun
    await asyncio.to_thread(until, lambda: deployment.pids.get("orchestrator", pid) != pid, "the orchestrator's new id")
    return seconds


def ratios(measured: Sequence[Grown]) -> list[Figure]:
    """Throughput with the most runs waiting over that with the fewest, wherever the number of partitions is the same."""
    figures = []
    for partitions in sorted({grown.size.partitions for grown in measured}):
        same = [grown for grown in measured if grown.size.partitions == partitions]
        fewest, most = (choose(same, key=lambda grown: grown.size.waiting) for choose in (min, max))
        if fewest.size != most.size:
            figures.append(
                Figure(
                    name=f"runs/s with {most.size.waiting:,} waiting / with {fewest.size.waiting:,}, P = {partitions}",
                    value=most.load.runs_per_second / fewest.load.runs_per_second,
                    unit="",
                    aim=LEAST_RATIO,
                    at_least=True,
                )
            )
    return figures


def growth_tables(measured: Sequence[Grown]) -> Iterator[Table]:
    """All in one column for each size; and the processes, in the same columns."""
    table = _table("growth: runs that wait, and others that move beside them", measured)
    for name, shown in _ROWS:
        table.add_row(name, *map(shown, measured))
    yield table
    table = _table("processes: CPU per task under load, memory and idle CPU while the runs wait", measured)
    for process in measured[0].load.cpu_us_per_task:
        table.add_row(process, *(_process(grown, process) for grown in measured))
    yield table


def _table(title: str, measured: Sequence[Grown]) -> Table:
    table = Table("", title=title)
    for grown in measured:
        table.add_column(f"{grown.size.waiting:,} wait\nP = {grown.size.partitions}", justify="right")
    return table


def _process(grown: Grown, name: str) -> str:
    spent = f"{grown.load.cpu_us_per_task.get(name, 0):.0f} µs"
    if name not in grown.memory_mb:
        return spent
    return f"{spent}, {grown.memory_mb[name]:.0f} MB, {grown.idle_cpu_percent[name]:.1f} %"


def _run_bytes(grown: Grown) -> str:
    return Figure(name="", value=grown.run_bytes, unit="B", aim=RUN_BYTES).coloured()


_ROWS: Final[tuple[tuple[str, Callable[[Grown], str]], ...]] = (
    ("runs/s, engine", lambda grown: f"{grown.load.runs_per_second:.0f}"),
    ("runs/s, shown by the read models", lambda grown: f"{grown.load.projected_per_second:.0f}"),
    ("latency of a run, p50", lambda grown: f"{grown.load.latency_p50_ms:.0f} ms"),
    ("latency of a run, p99", lambda grown: f"{grown.load.latency_p99_ms:.0f} ms"),
    ("CPU per task, all processes", lambda grown: f"{sum(grown.load.cpu_us_per_task.values()):.0f} µs"),
    ("waiting runs created/s", lambda grown: f"{grown.created_per_second:.0f}"),
    (f"Redis per waiting run without log (≤ {RUN_BYTES})", _run_bytes),
    ("Redis per event of the log", lambda grown: f"{grown.event_bytes:.0f} B"),
    ("memory of all processes (PSS)", lambda grown: f"{sum(grown.memory_mb.values()):.0f} MB"),
    ("idle CPU of everything", lambda grown: f"{sum(grown.idle_cpu_percent.values()):.1f} %"),
    ("another orchestrator, until a run is complete", lambda grown: f"{grown.orchestrator_seconds:.1f} s"),
)
