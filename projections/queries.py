"""The read side: lists, details, history and figures out of Postgres, for whoever has no business with Postgres.

Every call ends in bounded time, with rows or with `ReadModelUnavailable`. Postgres may be down when this is made, and may
go and come as it likes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tailrace.core.clock import from_datetime, to_datetime
from tailrace.core.errors import InvalidInput
from tailrace.core.store.port import RawEntry
from tailrace.projections.archive import to_entry
from tailrace.projections.pool import Pool
from tailrace.projections.rows import (
    AgentStats,
    CheckpointRow,
    Overview,
    ParkedRow,
    StageRow,
    StallRow,
    TaskRow,
    WorkerStats,
    WorkflowPage,
    WorkflowRow,
    rows,
    to_row,
)
from tailrace.projections.sql import statements
from tailrace.projections.values import cleaned, text

_SQL = statements("queries")

MAX_LIMIT: Final = 500
STATUSES: Final = ("initiated", "running", "paused", "completed", "failed", "cancelled")

#: How many days an agent's figures are of, up to the last one on which a task of its ended.
STATS_DAYS: Final = 7


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Behind which run a page begins: (created_at, workflow_id) of the last one shown."""

    created_at: int
    workflow_id: str


class Queries:
    """Reads the read model. One instance serves one process."""

    def __init__(
        self,
        url: str,
        *,
        instance_id: str | None = None,
        size: int = 8,
        acquire_seconds: float = 2.0,
        query_seconds: float = 5.0,
        application_name: str = "tailrace queries",
    ) -> None:
        """`instance_id` is the store's: with it, every connection checks that the database belongs to it."""
        self._pool = Pool(
            url,
            application_name=application_name,
            instance_id=instance_id,
            size=size,
            acquire_seconds=acquire_seconds,
            query_seconds=query_seconds,
        )

    async def __aenter__(self) -> Queries:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._pool.close()

    async def list_workflows(
        self,
        *,
        status: str | Sequence[str] | None = None,
        type: str | None = None,
        labels: dict[str, str] | None = None,
        input: dict[str, Any] | None = None,
        q: str | None = None,
        stalled: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> WorkflowPage:
        """Runs, newest first. `status` is one or several (also separated by commas), `q` is part of a name or
        description, or the beginning of an id. `input` is contained in the run's, as Postgres' `@>` has it: objects hold at
        least these fields, arrays at least these items. Raises `InvalidInput` for a status or cursor that can't be.
        """
        after = None if cursor is None else _read_cursor(cursor)
        statuses = _statuses(status)
        limit = _bounded(limit)
        pattern = None if not q else _literal(text(q))
        found = await self._pool.fetch(
            _SQL["workflows"],
            statuses[0] if len(statuses) == 1 else None,
            None if type is None else text(type),
            {text(key): text(value) for key, value in labels.items()} if labels else None,
            None if pattern is None else f"%{pattern}%",
            None if pattern is None else f"{pattern}%",
            stalled,
            None if after is None else to_datetime(after.created_at),
            None if after is None else after.workflow_id,
            limit + 1,
            cleaned(input) if input else None,
            statuses if len(statuses) > 1 else None,
        )
        more = len(found) > limit
        found = found[:limit]
        next_cursor = _spell_cursor(found[-1]["created_at"], found[-1]["workflow_id"]) if more else None
        return WorkflowPage(items=rows(found, WorkflowRow), next_cursor=next_cursor)

    async def get_workflow(self, workflow_id: str) -> WorkflowRow | None:
        """A run with its outputs; None when it is not there."""
        found = await self._pool.fetch(_SQL["workflow"], text(workflow_id))
        return to_row(found[0], WorkflowRow) if found else None

    async def stages(self, workflow_id: str) -> list[StageRow]:
        """The stages of a run, in the order of its definition."""
        return rows(await self._pool.fetch(_SQL["stages"], text(workflow_id)), StageRow)

    async def tasks(self, workflow_id: str) -> list[TaskRow]:
        """The tasks of a run, in the order of their dispatch."""
        return rows(await self._pool.fetch(_SQL["tasks"], text(workflow_id)), TaskRow)

    async def events(self, workflow_id: str, after_version: int = 0, limit: int = 500) -> list[RawEntry]:
        """The archived history of a run over a version, as it stood in the log; `fold.to_record` decodes an entry."""
        found = await self._pool.fetch(_SQL["events"], text(workflow_id), after_version, limit)
        return [to_entry(row) for row in found]

    async def log(self, partition: int, after_seq: int = 0, limit: int = 500) -> list[RawEntry]:
        """The archived log of a partition over a `seq`, in order."""
        found = await self._pool.fetch(_SQL["log"], partition, after_seq, limit)
        return [to_entry(row) for row in found]

    async def archived_version(self, workflow_id: str) -> int:
        """The highest archived version of a run, 0 when nothing of it is archived."""
        found = await self._pool.fetch(_SQL["archived_version"], text(workflow_id))
        version: int = found[0]["version"]
        return version

    async def stalls(
        self, *, open_only: bool = False, workflow_id: str | None = None, limit: int = 100
    ) -> list[StallRow]:
        """Findings of the watchdog, newest first."""
        wanted = None if workflow_id is None else text(workflow_id)
        return rows(await self._pool.fetch(_SQL["stalls"], open_only, wanted, _bounded(limit)), StallRow)

    async def parked(self, workflow_id: str | None = None, *, limit: int = 100) -> list[ParkedRow]:
        """Events that no projection could apply, of one run or of all."""
        wanted = None if workflow_id is None else text(workflow_id)
        return rows(await self._pool.fetch(_SQL["parked"], wanted, _bounded(limit)), ParkedRow)

    async def parked_runs(self) -> dict[int, int]:
        """How many runs of each partition are parked; partitions without any are left out."""
        return {row["partition"]: row["runs"] for row in await self._pool.fetch(_SQL["parked_runs"])}

    async def overview(self) -> Overview:
        """The whole in figures."""
        (found,) = await self._pool.fetch(_SQL["overview"])
        by_status = {status: found["by_status"].get(status, 0) for status in STATUSES}
        fields: dict[str, Any] = {**found, "by_status": by_status, "total": sum(by_status.values())}
        return msgspec.convert(fields, Overview)

    async def agent_stats(self, agent: str | None = None) -> list[AgentStats]:
        """The figures of one agent, or of all, with those of their workers; an agent without tasks is left out."""
        wanted = None if agent is None else text(agent)
        found: dict[str, dict[str, Any]] = {}
        for row in await self._pool.fetch(_SQL["agent_stats"], wanted, STATS_DAYS):
            if row["worker"] is None:  # the agent as a whole, which comes first
                tasks = row["open"] + row["completed"] + row["failed"] + row["cancelled"]
                found[row["agent"]] = {**row, "tasks": tasks, "workers": []}
            elif row["worker"]:
                found[row["agent"]]["workers"].append(to_row(row, WorkerStats))
        return [msgspec.convert(fields, AgentStats) for fields in found.values()]

    async def store_id(self) -> str | None:
        """The identity of the store that the read model was built from; None when no projector has run yet."""
        found = await self._pool.fetch(_SQL["store_id"])
        return found[0]["instance_id"] if found else None

    async def checkpoints(self) -> list[CheckpointRow]:
        """How far each projection has come in each partition; the lag is the log's head less `seq`."""
        return rows(await self._pool.fetch(_SQL["checkpoints"]), CheckpointRow)


def _statuses(status: str | Sequence[str] | None) -> list[str]:
    if not status:
        return []
    wanted = list(dict.fromkeys(status.split(",") if isinstance(status, str) else status))
    unknown = [item for item in wanted if item not in STATUSES]
    if unknown:
        raise InvalidInput(f"{unknown[0]!r} is not a status; there are: {', '.join(STATUSES)}")
    return wanted


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is 1 to {MAX_LIMIT}, not {limit}")
    return limit


def _literal(text: str) -> str:
    """`text` as a LIKE pattern that means just itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _spell_cursor(created_at: Any, workflow_id: str) -> str:
    data = msgspec.json.encode(_Cursor(from_datetime(created_at), workflow_id))
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _read_cursor(cursor: str) -> _Cursor:
    try:
        data = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = msgspec.json.decode(data, type=_Cursor)
        to_datetime(found.created_at)
    except (ValueError, OverflowError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidInput("the cursor is not one of ours") from error
    return _Cursor(found.created_at, text(found.workflow_id))
