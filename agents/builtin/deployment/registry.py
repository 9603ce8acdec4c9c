"""The apps that this worker process keeps running: one per run, a bounded number, none after it is closed."""

from __future__ import annotations

import asyncio
import logging

from tailrace.agents.builtin.deployment.supervisor import Supervisor
from tailrace.agents.workspace import Workspace

MAX_RUNNING = 16

log = logging.getLogger(__name__)


class Deployments:
    """Supervisors by workspace, oldest first."""

    def __init__(self, max_running: int = MAX_RUNNING) -> None:
        self._running: dict[str, Supervisor] = {}
        self._max_running = max_running

    def find(self, workspace: Workspace) -> Supervisor | None:
        """The supervisor of a run's app, if it is kept by this process."""
        return self._running.get(str(workspace.root))

    async def put(self, supervisor: Supervisor) -> bool:
        """Take over a started app; what ran for the same run is stopped. Gives whether something did."""
        key = str(supervisor.workspace.root)
        replaced = self._running.pop(key, None)
        self._running[key] = supervisor
        if replaced is not None:
            await replaced.stop()
        while len(self._running) > self._max_running:
            oldest = self._running.pop(next(iter(self._running)))
            log.warning("%s is stopped: a worker keeps %d apps", oldest.release.distribution, self._max_running)
            await oldest.stop()
        return replaced is not None

    async def close(self) -> None:
        """Stop them all."""
        running = list(self._running.values())
        self._running.clear()
        await asyncio.gather(*(supervisor.stop() for supervisor in running))
