"""No test hangs the suite: one that takes longer than its ceiling fails, and tells where everything stood.

A signal interrupts it: the stacks of all threads are written, and what each task of the running event loop waits for.
Then the test fails, and the suite goes on. Where that does not help (the clean-up waits in its turn, or somebody takes
the failure for an error of his own) the signal comes again, and in the end the whole process is ended, from a thread
that needs no interpreter. All of it goes to the real standard error at once, and is not lost with the process.

A ceiling is no measure of speed: it is several times what the slowest test takes on a busy machine.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import pytest

CEILING_SECONDS = 600.0
#: For tests that are marked as long.
LONG_CEILING_SECONDS = 3600.0
#: So long after the ceiling the test is interrupted again, and again.
AGAIN_SECONDS = 60.0
#: So long after the ceiling the process ends.
END_SECONDS = 150.0

#: The standard error of the whole run; while a test runs its own is caught.
_stderr: Final = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the standard error; nothing is caught yet."""
    config.stash[_stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let it go."""
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test with its fixtures, also those of the whole run that it is the first or the last to need."""
    seconds = LONG_CEILING_SECONDS if item.get_closest_marker("long") else CEILING_SECONDS
    stderr = item.config.stash[_stderr]
    end = time.monotonic() + seconds + END_SECONDS

    def interrupt(_: int, frame: FrameType | None) -> None:
        # pytest puts it off when a test fails; its fixtures may hang as well.
        faulthandler.dump_traceback_later(max(end - time.monotonic(), 0.1), exit=True, file=stderr)
        told = f"{item.nodeid} has not ended after {seconds:g} s"
        os.write(stderr, f"\n{told}\n{''.join(_tasks())}".encode())
        faulthandler.dump_traceback(file=stderr)
        pytest.fail(f"{told}; where everything stood is in the output of the run")

    before = signal.signal(signal.SIGALRM, interrupt)
    faulthandler.dump_traceback_later(seconds + END_SECONDS, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _tasks() -> Iterator[str]:
    """The tasks of the event loop that runs in this thread, and the way from each to what it waits for."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return
    for task in tasks:
        yield f"{task!r}\n"
        awaited: Any = task.get_coro()
        while frame := _first(awaited, "cr_frame", "gi_frame", "ag_frame"):
            yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n'
            awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")


def _first(value: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(value, name, None)) is not None), None)
