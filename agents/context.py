"""The `TaskContext` of a running task: what `sdk` promises, on the real store, disk and reporter."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace.agents.breaker import Breaker
from tailrace.agents.reporter import Reporter
from tailrace.agents.workspace import Workspace
from tailrace.core.artifacts import ArtifactRef, ArtifactStore
from tailrace.core.clock import to_us
from tailrace.core.commands import Report
from tailrace.core.errors import TaskError
from tailrace.core.events import Failure
from tailrace.core.store.port import Delivery

#: At most one progress event per task in this time, in seconds: more would flood the log.
PROGRESS_SECONDS: Final = 5.0

PROGRESS_MESSAGE_LIMIT: Final = 500

_log = logging.getLogger("tailrace.task")


def clean(text: object, limit: int) -> str:
    """Text that may enter the log, whatever a handler put into it, with at most `limit` characters."""
    return str(text).replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()[:limit]


class Means(NamedTuple):
    """What all tasks of a worker are run with. Without `workspaces` none of them has a folder."""

    worker: str
    build: str
    reporter: Reporter
    artifacts: ArtifactStore
    workspaces: Path | None
    breakers: dict[str, Breaker]


class RunningTask:
    """One task in the hands of this worker."""

    def __init__(self, delivery: Delivery, means: Means) -> None:
        message = delivery.message
        self.delivery = delivery
        self.task_id = message.task_id
        self.compensating = message.compensation
        self.deadline_us: int | None = None
        if message.timeout_seconds is not None:
            self.deadline_us = to_us(time.time() + message.timeout_seconds)
        self.cancelled = False
        self.lost = False
        self.finishing = False
        self.traceparent = delivery.traceparent
        self._means = means
        self._workspace: Workspace | None = None
        self._progressed_at = float("-inf")

    @property
    def idempotency_key(self) -> str:
        """The task id."""
        return self.task_id

    @property
    def workflow_id(self) -> str:
        """The run of the task."""
        return self.delivery.message.workflow_id

    @property
    def attempt(self) -> int:
        """Which attempt of its stage the task is."""
        return self.delivery.message.attempt

    @property
    def told(self) -> bool:
        """Whether the handler was told to end. It is told once: what it does then is not interrupted again."""
        return self.cancelled or self.lost

    @cached_property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """Names the task and its run in every line."""
        return logging.LoggerAdapter(_log, {"task_id": self.task_id, "workflow_id": self.workflow_id})

    @property
    def workspace(self) -> Workspace:
        """Made when first asked for."""
        if self._means.workspaces is None:
            raise TaskError("no-workspace", "this agent was made with files=False: its tasks have no folder")
        if self._workspace is None:
            self._workspace = Workspace(self._means.workspaces, self.workflow_id)
        return self._workspace

    async def progress(self, fraction: float, message: str = "") -> None:
        """Report it, unless the last one is too young."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress is between 0 and 1, not {fraction}")
        now = asyncio.get_running_loop().time()
        if now - self._progressed_at >= PROGRESS_SECONDS:
            self._progressed_at = now
            self._means.reporter.send_nowait(
                self.delivery,
                self.report("progressed", fraction=float(fraction), message=clean(message, PROGRESS_MESSAGE_LIMIT)),
                self.traceparent,
            )

    async def put_artifact(
        self, data: bytes, *, name: str, media_type: str = "application/octet-stream"
    ) -> ArtifactRef:
        """Store bytes, off the event loop."""
        return await asyncio.to_thread(self._means.artifacts.put, data, name=name, media_type=media_type)

    async def get_artifact(self, ref: ArtifactRef) -> bytes:
        """Read bytes, off the event loop."""
        return await asyncio.to_thread(self._means.artifacts.get, ref.sha256)

    def circuit(self, dependency: str) -> Breaker:
        """One breaker per dependency and process."""
        breakers = self._means.breakers
        if dependency not in breakers:
            breakers[dependency] = Breaker(dependency)
        return breakers[dependency]

    def report(
        self,
        kind: str,
        *,
        output: Any = None,
        error: Failure | None = None,
        fraction: float = 0.0,
        message: str = "",
    ) -> Report:
        """A report about this task, from this worker, for this delivery."""
        return Report(
            kind=kind,
            task_id=self.task_id,
            worker=self._means.worker,
            build=self._means.build,
            delivery=self.delivery.delivery,
            output=output,
            error=error,
            fraction=fraction,
            message=message,
        )
