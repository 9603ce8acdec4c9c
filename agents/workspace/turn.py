"""Turns in a run's folder: an attempt waits until earlier ones that were told to end have left it.

A stage's next attempt may be sent while the handler of the one before still tidies up: after a cancellation and a retry, a
time-out, a lease that ran out. Two handlers in one folder would undo each other's work. Every handler therefore holds a locked
file while it is there; locks end with their process, so nothing is left by one that was killed. Stages that run side by side
by plan do not wait for each other.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tailrace.agents.workspace.folder import check_workflow_id
from tailrace.core.store.port import TaskMessage

log = logging.getLogger(__name__)

#: How long a handler that was told to end may hold up the next one, in seconds.
GRACE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_FOLDER: Final = ".turns"


@asynccontextmanager
async def turn(base: Path, message: TaskMessage, *, grace_seconds: float = GRACE_SECONDS) -> AsyncIterator[None]:
    """Be the one who works on this stage of the run, below `base`, until the block ends.

    Waits for handlers of the same stage and of earlier rounds of the run that came before, `grace_seconds` at most: one that
    ignores that it was cancelled must not stop its run for ever.
    """
    check_workflow_id(message.workflow_id)
    folder = base / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # The clock is that of the machine, and so is the folder: names sort by who came first.
    workflow_id, stage = quote(message.workflow_id, safe=""), quote(message.stage, safe="")
    name = f"{time.monotonic_ns():020d}|{workflow_id}|{message.round}|{stage}"
    handle = _locked(folder, name)
    try:
        end = time.monotonic() + grace_seconds
        while blocking := list(_before(folder, name)):
            if time.monotonic() >= end:
                log.warning("task %s begins while %s still runs", message.task_id, ", ".join(blocking))
                break
            await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        (folder / name).unlink(missing_ok=True)
        os.close(handle)


def _locked(folder: Path, name: str) -> int:
    """A handle of the file `name`, which is locked when it appears."""
    hidden = folder / f".{name}"
    handle = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    hidden.rename(folder / name)
    return handle


def _before(folder: Path, name: str) -> Iterator[str]:
    """Those that came before `name` and that it has to wait for."""
    _, workflow_id, round_, stage = name.split("|")
    for other in [path.name for path in folder.iterdir()]:
        if other.startswith(".") or other >= name:
            continue
        _, its_workflow_id, its_round, its_stage = other.split("|")
        concerned = its_workflow_id == workflow_id and (its_stage == stage or int(its_round) < int(round_))
        if concerned and _is_held(folder / other):
            yield f"{its_stage} of round {its_round}"


def _is_held(path: Path) -> bool:
    """Whether somebody is there; what a killed process left is removed."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with suppress(FileNotFoundError):
            path.unlink()
        return False
    finally:
        os.close(handle)
