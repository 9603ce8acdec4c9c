"""Processes that `tailrace up` starts die with it, also when it is killed with -9; so does `up` itself, for who asks for it.

On Linux the kernel does it (`PR_SET_PDEATHSIG`); elsewhere a thread looks whether the parent is still the parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

PARENT_VARIABLE: Final = "TAILRACE_PARENT_PID"
READY_VARIABLE: Final = "TAILRACE_READY_FD"

_PR_SET_PDEATHSIG: Final = 1
_LOOK_SECONDS: Final = 1.0


def die_with_parent() -> None:
    """Bind this process to the parent that started it for that; does nothing for a process started by hand."""
    expected = os.environ.get(PARENT_VARIABLE)
    if not expected:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(int(expected),), daemon=True).start()
    if os.getppid() != int(expected):
        # It died before we could ask to be told.
        os._exit(1)


def say_ready(message: str = "") -> None:
    """Tell the parent, once, that this process does its work; `message` is what it has to know."""
    descriptor = os.environ.pop(READY_VARIABLE, None)
    if descriptor is not None:
        with os.fdopen(int(descriptor), "w") as pipe:
            pipe.write(message + "\n")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
