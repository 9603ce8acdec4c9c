"""Keeps one deployed app running: started again when it crashes, a bounded number of times, on the same port.

Invariants: the app ends with this process, however that ends (its guard sees to it); and it ends when another release
becomes current or the workspace is removed, whoever did that, because the supervisor looks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque

import msgspec

from tailrace.agents.builtin.deployment.release import Release, current
from tailrace.agents.builtin.running import App, Ready, start_app
from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import Workspace

LOOK_SECONDS = 0.5
MAX_RESTARTS = 5
WINDOW_SECONDS = 60.0
BACKOFF_SECONDS = 0.1
GRACE_SECONDS = 1.0
RESTART_SECONDS = 10.0

log = logging.getLogger(__name__)


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor writes down about its app, for workers in other processes. `gave_up` says why it did."""

    ready: Ready
    pid: int
    restarts: int = 0
    gave_up: str = ""


class Supervisor:
    """An app, started by `launch` for the release that is current, and the task that watches over it. Ended by `stop`."""

    def __init__(self, workspace: Workspace, release: Release, app: App) -> None:
        self.workspace = workspace
        self.release = release
        self._app = app
        self._restarts: deque[float] = deque()
        self.state = RunState(ready=app.ready, pid=app.process.pid)
        self._write()
        # A context of its own: what follows belongs to no task's trace.
        self._task = asyncio.create_task(self._supervise(), context=contextvars.Context())

    @property
    def running(self) -> bool:
        """False once it gave up or was stopped."""
        return not self._task.done()

    async def stop(self) -> None:
        """End the app; nothing of it is left when this returns."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._app.process.stop(grace_seconds=GRACE_SECONDS)

    async def _supervise(self) -> None:
        try:
            while self._counts():
                ended = asyncio.ensure_future(self._app.process.wait())
                done, _ = await asyncio.wait([ended], timeout=LOOK_SECONDS)
                ended.cancel()
                if done and not await self._restart():
                    return
        finally:
            await self._app.process.stop(grace_seconds=GRACE_SECONDS)

    def _counts(self) -> bool:
        now = current(self.workspace)
        return now is not None and now.token == self.release.token

    async def _restart(self) -> bool:
        said = self._app.process.output(300)
        while self._may_restart():
            await asyncio.sleep(BACKOFF_SECONDS * 2 ** (len(self._restarts) - 1))
            if not self._counts():
                return False
            log.warning("%s ended and is started again: %s", self.release.distribution, said)
            try:
                self._app = await launch(
                    self.workspace, self.release, port=self.state.ready.port, timeout_seconds=RESTART_SECONDS
                )
            except TaskError as error:
                said = error.message
            else:
                self.state = RunState(
                    ready=self._app.ready, pid=self._app.process.pid, restarts=self.state.restarts + 1
                )
                self._write()
                return True
        gave_up = f"it ended {MAX_RESTARTS + 1} times within {WINDOW_SECONDS:g} s; the last words: {said}"
        log.error("%s is given up: %s", self.release.distribution, gave_up)
        self.state = msgspec.structs.replace(self.state, gave_up=gave_up[:500])
        self._write()
        return False

    def _may_restart(self) -> bool:
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - WINDOW_SECONDS:
            self._restarts.popleft()
        self._restarts.append(now)
        return len(self._restarts) <= MAX_RESTARTS

    def _write(self) -> None:
        if self.workspace.exists(self.release.folder):
            self.workspace.write_bytes(_state_file(self.release), msgspec.json.encode(self.state))


def read_state(workspace: Workspace, release: Release) -> RunState | None:
    """What the release's supervisor wrote last, in whichever process it is or was."""
    try:
        return msgspec.json.decode(workspace.read_bytes(_state_file(release)), type=RunState)
    except (TaskError, msgspec.MsgspecError):
        return None


def _state_file(release: Release) -> str:
    return f"{release.folder}/state.json"


async def launch(workspace: Workspace, release: Release, *, port: int = 0, timeout_seconds: float) -> App:
    """Start the app of a release; raises `TaskError` `app-not-started`, and nothing is left running then."""
    return await start_app(
        workspace,
        release.package,
        path=f"{release.folder}/lib",
        cwd=f"{release.folder}/run",
        port=port,
        timeout_seconds=timeout_seconds,
    )
