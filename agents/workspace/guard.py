"""Stands between a worker and a program: when the lifeline (stdin) ends, the program and all it started end at once.

Run as a plain script: `python -I -S guard.py PROGRAM ARG…`. The worker holds the other end of the pipe, so the
worker's end, however it comes, is the pipe's end. A byte on the pipe asks the program to end by SIGTERM first. On Linux
the guard is a subreaper: also what the program started in sessions of its own comes back to it and is killed. Tried
and dropped: a `preexec_fn` (Python code between fork and exec may deadlock in a process with threads), and the kernel's
death signal alone (it ends the program but none of its children, and fires when a mere thread of the worker ends).
Exits with the program's code, or 128 plus the number of the signal that ended it.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_NOT_STARTED = 127
SWEEP_SECONDS = 4.0


def prctl(option: int, value: int) -> None:
    """Ask the kernel for a property of this process; does nothing where there is no such call."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - 5 ms that other platforms need not spend

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(argv: list[str]) -> int:
    """Fork, and become the program in a session of its own; gives its process id."""
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(EXIT_NOT_STARTED)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(EXIT_NOT_STARTED)


def watch(child: int, wakeup: int) -> int | None:
    """Wait until the program ends (gives its exit code) or the lifeline does (gives None)."""
    while True:
        readable, _, _ = select.select([0, wakeup], [], [])
        if wakeup in readable:
            os.read(wakeup, 4096)
            code = reap(child)
            if code is not None:
                return code
        if 0 in readable:
            if not os.read(0, 1):
                return None
            signal_group(child, signal.SIGTERM)


def reap(child: int) -> int | None:
    """Collect whoever has ended; gives the program's exit code once it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                found = 128 - code if code < 0 else code
    return found


def signal_group(leader: int, number: int) -> None:
    """Signal the program's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def children() -> list[int]:
    """Processes whose parent is the guard, orphans of the program among them (Linux; elsewhere none are known)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name in parentheses may hold anything, also spaces and parentheses.
            if int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


def sweep(child: int) -> None:
    """Kill what is left until nothing is: whoever loses its parent becomes a child of the guard."""
    signal_group(child, signal.SIGKILL)
    give_up_at = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < give_up_at:
        for pid in children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.002)


def main(argv: list[str]) -> None:
    """Run the program to its end, or to the end of whoever asked for it."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = start(argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: signal_group(child, signal.SIGTERM))
    code = watch(child, wakeup)
    sweep(child)
    os._exit(128 + signal.SIGKILL if code is None else code)


if __name__ == "__main__":
    main(sys.argv)
