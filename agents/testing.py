"""For authors of agents: run one action without a worker, a store or a gateway.

`LocalContext` keeps in memory what a worker would report, so that a test can look at it. Its files lie below one
folder: workspaces by workflow id, artifacts beside them; a second context with the same folder sees the same run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailrace.agents.breaker import Breaker
from tailrace.agents.sdk import Agent
from tailrace.agents.workspace import Workspace
from tailrace.core.artifacts import ArtifactRef, FileArtifacts


class LocalContext:
    """A `TaskContext` whose folder, ids and clock the test decides."""

    def __init__(
        self,
        folder: Path,
        *,
        workflow_id: str = "run-1",
        stage: str = "stage",
        attempt: int = 1,
        compensating: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task_id = f"{workflow_id}:{stage}:{attempt}"
        self.idempotency_key = self.task_id
        self.workflow_id = workflow_id
        self.attempt = attempt
        self.compensating = compensating
        self.deadline_us: int | None = None
        self.cancelled = False
        self.workspace = Workspace(folder / "workspaces", workflow_id)
        self.log = logging.LoggerAdapter(logging.getLogger("tailrace.task"), {"task_id": self.task_id})
        self.reports: list[tuple[float, str]] = []
        """What was said by `progress`, in order."""
        self._artifacts = FileArtifacts(folder / "artifacts")
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    async def progress(self, fraction: float, message: str = "") -> None:
        """Record it; raises ValueError where a worker would reject it."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress is between 0 and 1, not {fraction}")
        self.reports.append((fraction, message))

    async def put_artifact(
        self, data: bytes, *, name: str, media_type: str = "application/octet-stream"
    ) -> ArtifactRef:
        """Store bytes in the folder."""
        return await asyncio.to_thread(self._artifacts.put, data, name=name, media_type=media_type)

    async def get_artifact(self, ref: ArtifactRef) -> bytes:
        """Read bytes from the folder; raises `NotFound`."""
        return await asyncio.to_thread(self._artifacts.get, ref.sha256)

    def circuit(self, dependency: str) -> Breaker:
        """One breaker per name, for the life of this context."""
        if dependency not in self._breakers:
            self._breakers[dependency] = Breaker(dependency, clock=self._clock)
        return self._breakers[dependency]


async def run_action(
    agent: Agent, action: str, context: LocalContext, *, stages: dict[str, Any] | None = None, **fields: Any
) -> Any:
    """Run one action as a worker would, with builtin types in and out; `fields` are those of `TaskInput`."""
    raw = {"name": "calculator-app", "stages": stages or {}, **fields}
    return await agent.find(action)(context, raw)
