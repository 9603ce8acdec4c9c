"""The whole deployment as somebody meets it: how soon it is there, what it takes while nothing runs, and how fast it answers.

And the demo: seven real stages, from the command to their end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.deployment import cpu_seconds, pss_bytes, running_up
from tests.bench.figures import Figure
from tests.bench.noop import line
from tests.bench.peers.contract import STEPS
from tests.bench.percentile import percentile

#: What starting left to do is not idling; in seconds.
CALM_SECONDS = 3.0


def measure_whole(folder: Path, *, requests: int, idle_seconds: float) -> Iterator[Figure]:
    """Start twice in an empty folder, idle, and ask `requests` times for a run."""
    with running_up(folder) as deployment:
        yield Figure(name="up, first time", value=deployment.started_seconds, unit="s", aim=10)
    with running_up(folder) as deployment:
        yield Figure(name="up, existing data", value=deployment.started_seconds, unit="s", aim=5)
        time.sleep(CALM_SECONDS)
        before, begun = cpu_seconds(deployment.pids), time.monotonic()
        time.sleep(idle_seconds)
        spent = sum(cpu_seconds(deployment.pids).values()) - sum(before.values())
        share = spent / (time.monotonic() - begun)
        yield Figure(name="idle CPU of everything", value=100 * share, unit="% of a core", aim=3)
        memory = sum(pss_bytes(deployment.pids).values())
        yield Figure(name="memory of all processes (PSS)", value=memory / 1e6, unit="MB", aim=600)
        _send(
            deployment.url, "PUT", "/definitions/bench", msgspec.to_builtins(line(STEPS, name="bench", agent="nobody"))
        )
        latencies = [_post(deployment.url, number) for number in range(requests)]
        yield Figure(name="POST /workflows p50", value=1000 * percentile(latencies, 0.5), unit="ms", aim=3)
        yield Figure(name="POST /workflows p99", value=1000 * percentile(latencies, 0.99), unit="ms", aim=50)


def measure_demo() -> Iterator[Figure]:
    """`tailrace demo` in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        begun = time.monotonic()
        command = [sys.executable, "-m", "tailrace.infra.cli", "demo", "--json", "--data-dir", f"{folder}/demo"]
        done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        workflow = json.loads(done.stdout)["workflow"]
        yield Figure(name="demo, start to end", value=time.monotonic() - begun, unit="s", aim=90)
        ended, created = (datetime.fromisoformat(workflow[key]) for key in ("completed_at", "created_at"))
        yield Figure(name="demo, seven real stages", value=(ended - created).total_seconds(), unit="s", aim=60)


def _post(url: str, number: int) -> float:
    """Seconds until the gateway has answered. The run waits for a worker that does not exist: only the request counts."""
    begun = time.perf_counter()
    _send(url, "POST", "/workflows", {"type": "bench", "name": f"bench-{number}"})
    return time.perf_counter() - begun


def _send(url: str, method: str, path: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/v1{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()
