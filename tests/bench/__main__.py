"""`make bench`: speed and size of a whole deployment on this machine, as a table and as JSON.

Everything is measured on one `tailrace up` with a data directory of its own; nothing here is a test, so nothing fails on a
slow machine. The aims stand beside the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.bench.deployment import cpu_seconds, pss_bytes, running_up

REQUESTS = 300
IDLE_SECONDS = 20.0


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure with its unit, and what it aims at."""

    name: str
    value: float
    unit: str
    aim: float


def main() -> None:
    """Measure, print the table, and write the JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--no-demo", action="store_true", help="leave the seven real stages out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        figures = list(_measure(Path(folder), demo=not options.no_demo))
    table = Table("figure", "measured", "aim")
    for figure in figures:
        style = "green" if figure.value <= figure.aim else "red"
        table.add_row(
            figure.name, f"[{style}]{figure.value:.2f} {figure.unit}[/{style}]", f"≤ {figure.aim:g} {figure.unit}"
        )
    Console().print(table)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def _measure(folder: Path, *, demo: bool) -> Iterator[Figure]:
    with running_up(folder) as (_, seconds):
        yield Figure(name="up, first time", value=seconds, unit="s", aim=10)
    with running_up(folder) as (ready, seconds):
        yield Figure(name="up, existing data", value=seconds, unit="s", aim=5)
        pids = [int(pid) for pid in ready["pids"].values()]
        time.sleep(3.0)  # what starting left to do is not idling
        before, begun = cpu_seconds(pids), time.monotonic()
        time.sleep(IDLE_SECONDS)
        share = (cpu_seconds(pids) - before) / (time.monotonic() - begun)
        yield Figure(name="idle CPU of everything", value=100 * share, unit="% of a core", aim=3)
        yield Figure(name="memory of all processes (PSS)", value=pss_bytes(pids) / 1e6, unit="MB", aim=600)
        latencies = [_post(ready["url"], number) for number in track(range(REQUESTS), description="POST")]
        yield Figure(name="POST /workflows p50", value=1000 * statistics.median(latencies), unit="ms", aim=3)
        yield Figure(
            name="POST /workflows p99", value=1000 * sorted(latencies)[int(0.99 * REQUESTS)], unit="ms", aim=50
        )
    if demo:
        begun = time.monotonic()
        command = [sys.executable, "-m", "tailrace.infra.cli", "demo", "--json", "--data-dir", str(folder / "demo")]
        done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        workflow = json.loads(done.stdout)["workflow"]
        yield Figure(name="demo, start to end", value=time.monotonic() - begun, unit="s", aim=90)
        yield Figure(name="demo, seven real stages", value=_took(workflow), unit="s", aim=60)


def _took(workflow: dict[str, Any]) -> float:
    from datetime import datetime  # noqa: PLC0415

    ended, created = (datetime.fromisoformat(workflow[key]) for key in ("completed_at", "created_at"))
    return (ended - created).total_seconds()


def _post(url: str, number: int) -> float:
    """Seconds until the gateway has answered. The run waits for a worker that does not exist: only the request counts."""
    body = json.dumps({"type": "bench", "name": f"bench-{number}"}).encode()
    request = urllib.request.Request(
        f"{url}/api/v1/workflows", data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    if number == 0:
        _apply_definition(url)
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()
    return time.perf_counter() - begun


def _apply_definition(url: str) -> None:
    stages = [
        {"name": f"s{index}", "agent": "nobody", "needs": [f"s{index - 1}"] if index else []} for index in range(7)
    ]
    body = json.dumps({"name": "bench", "stages": stages}).encode()
    request = urllib.request.Request(
        f"{url}/api/v1/definitions/bench", data=body, headers={"Content-Type": "application/json"}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()


if __name__ == "__main__":
    main()
