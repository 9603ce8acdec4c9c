"""Waiting for what nobody announces: the state of other processes, files and runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How long things may take on a busy machine before a test gives up; nothing waits for this long on purpose."""


def until(condition: Callable[[], T | bool | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Wait until `condition` gives something true, and give it; `what` says in the failure what never came."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found  # type: ignore[return-value]  # true: neither None nor False
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
