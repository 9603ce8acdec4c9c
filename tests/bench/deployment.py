"""A whole deployment to be measured, a `tailrace up` of its own, and what its processes use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailrace.infra.parent import PARENT_VARIABLE


@contextmanager
def running_up(
    folder: Path, *options: str, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[dict[str, Any], float]]:
    """A `tailrace up` with its ready file, and the seconds until it was written; stopped with SIGINT at the end.

    `settings` are TAILRACE_… variables.
    """
    ready, log = folder / "ready.json", folder / "up.log"
    ready.unlink(missing_ok=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", "tailrace.infra.cli", "up", "--port", "0", *options]
    # What the shell says of other deployments is not for this one, which dies with us.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready), "--data-dir", str(folder / "data")],
            stdout=subprocess.DEVNULL,
            stderr=said,
            stdin=subprocess.DEVNULL,
            env={**environment, **(settings or {}), PARENT_VARIABLE: str(os.getpid())},
        )
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise RuntimeError(f"up ended with {process.returncode}: {log.read_text()}")
            time.sleep(0.01)
        yield json.loads(ready.read_text()), time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def family(pids: list[int]) -> list[int]:
    """These processes and all their children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, None] = {}
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = None
            waiting += children.get(pid, [])
    return list(found)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes and all their children."""
    ticks = 0
    for pid in family(pids):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(pids: list[int]) -> int:
    """Proportional memory of these processes and all their children: shared pages are counted once."""
    total = 0
    for pid in family(pids):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) * 1024
    return total
