"""What the operating system says about processes: who descends from whom, who is gone, and whose traces lead to a folder.

Only Linux tells all of it; the acceptance tests run there.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from tests.acceptance.waiting import until

PROC = Path("/proc")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def descendants(roots: Iterable[int]) -> set[int]:
    """The processes given and everything they have started that is still their child."""
    parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def traces_of(folder: Path) -> dict[int, str]:
    """Living processes that work in `folder`, or have it in their command line or environment.

    Finds also those that have left their parent. The processes of the test itself are not meant.
    """
    wanted = _name_of(folder)
    found = ours_in(folder)
    for pid in set(_pids()) - _ancestors(os.getpid()):
        if wanted.search(command := _read(pid, "cmdline")) and not gone(pid):
            found[pid] = command.replace("\0", " ").strip()
    return found


def ours_in(folder: Path) -> dict[int, str]:
    """The same without those that only name it, as somebody does who reads a log there."""
    wanted = _name_of(folder)
    found: dict[int, str] = {}
    for pid in set(_pids()) - _ancestors(os.getpid()):
        if (wanted.search(_read(pid, "environ")) or wanted.match(_working_directory(pid))) and not gone(pid):
            found[pid] = _read(pid, "cmdline").replace("\0", " ").strip()
    return found


def all_gone(pids: set[int], seconds: float = 10.0) -> float:
    """Wait until every process has ended; gives the seconds it took."""
    began = time.monotonic()
    until(lambda: all(gone(pid) for pid in pids), f"the end of {sorted(pids)}", seconds)
    return time.monotonic() - began


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def owner(pid: int) -> int:
    """The user a process runs as."""
    return (PROC / str(pid)).stat().st_uid


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])  # the name before it may hold blanks and brackets


def _ancestors(pid: int) -> set[int]:
    found = set()
    current: int | None = pid
    while current:
        found.add(current)
        current = _parent(current)
    return found


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _working_directory(pid: int) -> str:
    try:
        return str((PROC / str(pid) / "cwd").readlink())
    except OSError:
        return ""


def _name_of(folder: Path) -> re.Pattern[str]:
    """The folder or something below it; not another one whose name begins alike."""
    return re.compile(re.escape(str(folder)) + r"(?![\w.-])")
