"""What the operating system knows about processes: children, who holds a file open, where one works.

Answers are exact at the moment of asking and empty where the system does not tell; callers must cope with both.
Linux reads /proc; elsewhere the standard tools `pgrep` and `lsof` are asked (untested on macOS).
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the child ends; None where the kernel has none."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return None


def send(pid: int, number: int) -> None:
    """Send a signal; a process that is gone is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    if sys.platform == "linux":
        return [child for child in _all_pids() if _parent(child) == pid]
    else:
        return _asked("pgrep", "-P", str(pid))


def holders(path: Path) -> list[int]:
    """Processes other than this one that have the file open, as far as this user may see."""
    if sys.platform == "linux":
        wanted = path.resolve()
        return [pid for pid in _all_pids() if pid != os.getpid() and wanted in _open_files(pid)]
    else:
        return [pid for pid in _asked("lsof", "-t", str(path)) if pid != os.getpid()]


def working_directory(pid: int) -> Path | None:
    """Where a process works; None when it does not exist or the system does not tell."""
    try:
        return (_PROC / str(pid) / "cwd").readlink()
    except OSError:
        return None


def name(pid: int) -> str | None:
    """The name of a process, readable for everyone; None when it does not exist or the system does not tell."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None


def exists(pid: int) -> bool:
    """Whether some process has this id now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _all_pids() -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _parent(pid: int) -> int | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])  # the name before it may hold blanks and brackets


def _open_files(pid: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield entry.readlink()


def _asked(*argv: str) -> list[int]:
    with contextlib.suppress(OSError):
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=5)
        return [int(word) for word in answer.stdout.split() if word.isdigit()]
    return []
