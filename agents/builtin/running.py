"""A generated app as a process: started on a loopback port, known by its instance, and waited for until it is healthy.

The app takes a free port itself and writes it to a file, so nobody can take the port in between. Its health check names
an instance that differs at each start: an answer from another process on the same port is not taken for this one's.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from tailrace.agents.builtin.web import request
from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import Process, Workspace

POLL_SECONDS = 0.02
OUTPUT_CHARACTERS = 1500


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Where an app listens, as it says itself."""

    url: str
    port: int
    instance: str


class App(msgspec.Struct, frozen=True, kw_only=True):
    """A running app and how to reach it."""

    process: Process
    ready: Ready

    async def healthy(self) -> bool:
        """True if this very process answers its health check."""
        return await is_healthy(self.ready)


async def start_app(
    workspace: Workspace, package: str, *, path: str, cwd: str, port: int = 0, timeout_seconds: float = 15.0
) -> App:
    """Start `package` from the folder `path` and wait until it is healthy; port 0 takes a free one.

    Raises `TaskError` `app-not-started` with the last output; nothing is left running then.
    """
    ready_file = f"{cwd}/ready.json"
    workspace.path(cwd).mkdir(parents=True, exist_ok=True)
    workspace.remove(ready_file)
    process = await workspace.start(
        [sys.executable, "-P", "-m", package, *("--host", "127.0.0.1", "--port", str(port)),
         *("--ready-file", str(workspace.path(ready_file)))],
        cwd=cwd,
        env={"PYTHONPATH": str(workspace.path(path))},
        output_limit_bytes=64 * 1024,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_seconds):
            ready = await _wait_ready(workspace, ready_file, process)
            while not await is_healthy(ready):
                _check_running(process)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        await process.stop()
        said = process.output(OUTPUT_CHARACTERS)
        raise _not_started(f"the app was not healthy within {timeout_seconds:g} s", said) from None
    except BaseException:
        await process.stop()
        raise
    return App(process=process, ready=ready)


async def is_healthy(ready: Ready, *, timeout_seconds: float = 2.0) -> bool:
    """True if the process that `ready` is about answers its health check."""
    try:
        answer = await request(f"{ready.url}/health", timeout_seconds=timeout_seconds)
    except OSError:
        return False
    health = answer.json()
    return (
        answer.status == 200
        and isinstance(health, dict)
        and health.get("status") == "ok"
        and health.get("instance") == ready.instance
    )


async def _wait_ready(workspace: Workspace, ready_file: str, process: Process) -> Ready:
    while not workspace.exists(ready_file):
        _check_running(process)
        await asyncio.sleep(POLL_SECONDS)
    try:
        ready = msgspec.convert(json.loads(workspace.read_text(ready_file, limit_bytes=4096)), Ready)
    except (ValueError, msgspec.ValidationError) as error:
        raise _not_started(f"the app's ready file can't be read: {error}", process.output(OUTPUT_CHARACTERS)) from error
    if ready.url != f"http://127.0.0.1:{ready.port}":
        raise _not_started(f"the app listens at {ready.url[:100]!r}, and not on this machine only", "")
    return ready


def _check_running(process: Process) -> None:
    if not process.running:
        raise _not_started("the app ended at once", process.output(OUTPUT_CHARACTERS))


def _not_started(message: str, output: str) -> TaskError:
    last = output.strip().rpartition("\n")[2][:300]
    return TaskError(
        "app-not-started", f"{message}: {last}" if last else message, retryable=True, details={"output": output}
    )
