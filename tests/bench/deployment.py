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

import msgspec

from tailrace.infra.parent import PARENT_VARIABLE

#: Processes by name, as the ready file has them. A process stands for its children too, but for those with a name of their own.
Pids = Mapping[str, int]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One that runs, as its ready file has it, and how long it took to be ready."""

    url: str
    redis_url: str
    postgres_url: str
    started_seconds: float
    ready_file: Path

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now."""
        pids: dict[str, int] = json.loads(self.ready_file.read_text())["pids"]
        return pids

    def program(self, name: str) -> Path:
        """The program that a process runs."""
        return Path(f"/proc/{self.pids[name]}/exe").readlink()


@contextmanager
def running_up(folder: Path, *options: str, settings: Mapping[str, str] | None = None) -> Iterator[Deployment]:
    """A `tailrace up`, ready; stopped with SIGINT at the end. `settings` are TAILRACE_… variables."""
    ready, log = folder / "ready.json", folder / "up.log"
    ready.unlink(missing_ok=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", "tailrace.infra.cli", "up", "--port", "0", *options]
    # What the shell says of other deployments is not for this one, which dies with us.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    # What was measured is read out of the log afterwards, so all of it stays.
    environment["TAILRACE_LOG_TAIL"] = "1000000000"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready), "--data-dir", str(folder / "data")],
            stdout=subprocess.DEVNULL,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**environment, **(settings or {}), PARENT_VARIABLE: str(os.getpid())},
        )
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise RuntimeError(f"up ended with {process.returncode}: {log.read_text()}")
            time.sleep(0.01)
        seconds = time.monotonic() - begun
        said = {name: value for name, value in json.loads(ready.read_text()).items() if name != "pids"}
        yield Deployment(**said, started_seconds=seconds, ready_file=ready)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that stands still meanwhile, as if it were not there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def cpu_seconds(pids: Pids) -> dict[str, float]:
    """User and system time of each process so far, with that of children which have ended."""
    return {name: sum(map(_cpu_seconds, family)) for name, family in _families(pids).items()}


def pss_bytes(pids: Pids) -> dict[str, int]:
    """Proportional memory of each process: pages that several share are counted once."""
    return {name: sum(map(_pss_bytes, family)) for name, family in _families(pids).items()}


def _families(pids: Pids) -> dict[str, list[int]]:
    """Each process with its descendants, down to those that have a name of their own."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    named = set(pids.values())

    def family(pid: int) -> list[int]:
        own = [child for child in children.get(pid, ()) if child not in named]
        return [pid, *(member for child in own for member in family(child))]

    return {name: family(pid) for name, pid in pids.items()}


def _cpu_seconds(pid: int) -> float:
    return sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) * 1024


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/<pid>/stat` from the state on; none when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
