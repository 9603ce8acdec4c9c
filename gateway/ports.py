"""What the gateway asks of others: the read model, and the diagnosis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from tailrace.core.store.port import RawEntry

#: Why a run does not move, worked out on demand; raises `NotFound`.
Diagnose = Callable[[str], Awaitable[msgspec.Struct]]


class ReadModel(Protocol):
    """What Postgres knows. Every call raises `ReadModelUnavailable` when it can't be asked."""

    async def list_workflows(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        labels: dict[str, str] | None = None,
        q: str | None = None,
        stalled: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Any: ...

    async def get_workflow(self, workflow_id: str) -> Any: ...

    async def stages(self, workflow_id: str) -> Any: ...

    async def tasks(self, workflow_id: str) -> Any: ...

    async def events(self, workflow_id: str, after_version: int, limit: int) -> Sequence[RawEntry]: ...

    async def archived_version(self, workflow_id: str) -> int: ...

    async def stalls(self) -> Any: ...

    async def overview(self) -> Any: ...

    async def agent_stats(self) -> Any: ...

    async def checkpoints(self) -> Any: ...
