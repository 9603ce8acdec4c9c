"""What every side of the comparison takes and gives, Tailrace's too: arguments in, one line of JSON out.

It needs the standard library only, because each peer imports it in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from tests.bench.percentile import percentile

#: Steps of the workflow that every side runs.
STEPS = 7

#: Runs before the clock starts: connections are made, modules imported, statements prepared.
WARM_UP_RUNS = 40
WARM_UP_OPEN = 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of a side: `runs` workflows with `open_runs` of them open at a time, then `idle_runs` one by one."""

    redis_url: str
    postgres_url: str
    runs: int
    open_runs: int
    idle_runs: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a side measured. `seconds` is from the first submit until every run is known to be complete."""

    peer: str
    version: str
    runs: int
    seconds: float
    runs_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float


#: Brings so many runs to their end, so many of them open at a time, and fails when one of them did not do its steps.
Drive = Callable[[int, int], None]


def read_task(description: str | None) -> Task:
    """The arguments of this process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--postgres-url", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--open", dest="open_runs", type=int, default=100)
    parser.add_argument("--idle-runs", type=int, default=100, help="runs whose latency is measured, one at a time")
    return Task(**vars(parser.parse_args()))


def measure(peer: str, version: str, task: Task, drive: Drive, once: Callable[[], None] | None = None) -> Answer:
    """Warm up, then the rate, then the latency of one run at a time, which `once` carries out (default: a drive of one)."""
    one_run = once or partial(drive, 1, 1)
    drive(WARM_UP_RUNS, WARM_UP_OPEN)
    seconds = _timed(partial(drive, task.runs, task.open_runs))
    latencies = [_timed(one_run) for _ in range(task.idle_runs)]
    return Answer(
        peer=peer,
        version=version,
        runs=task.runs,
        seconds=seconds,
        runs_per_second=task.runs / seconds,
        latency_p50_ms=1000 * percentile(latencies, 0.5),
        latency_p99_ms=1000 * percentile(latencies, 0.99),
    )


def _timed(act: Callable[[], None]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def give(answer: Answer) -> None:
    """Print the one line."""
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    sys.stdout.flush()


def check(*, holds: bool, otherwise: str) -> None:
    """Fail loudly when a run did not do what it was for; an `assert` could be switched off."""
    if not holds:
        raise SystemExit(f"not a measurement: {otherwise}")
