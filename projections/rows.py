"""What the read side gives: rows with the names of the interface. Times are RFC 3339 text in UTC, to the microsecond."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import msgspec

from tailrace.core.clock import from_datetime, to_rfc3339

R = TypeVar("R", bound=msgspec.Struct)


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """Why something failed; see `core.events.Failure`."""

    reason: str
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] = {}


class StandingStall(msgspec.Struct, frozen=True, kw_only=True):
    """The stall of a run that stands now."""

    cause: str
    hop: str
    since: str
    summary: str
    suggestion: str = ""


class WorkflowRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run. `parked_version` is where its projection stopped, with the reason; null while all is applied.

    `stage_outputs` is filled for a single run only, empty in lists.
    """

    workflow_id: str
    type: str
    name: str
    description: str
    requirements: str
    priority: str
    definition: str
    status: str
    current_stage: str | None
    progress_percentage: int
    version: int
    round: int
    trace_id: str | None
    labels: dict[str, str]
    input: dict[str, Any] | None
    error: ErrorRow | None
    stall: StandingStall | None
    created_at: str
    updated_at: str
    completed_at: str | None
    partition: int
    parked_version: int | None
    parked_reason: str | None
    stage_outputs: dict[str, Any] = {}


class WorkflowPage(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first; `next_cursor` is null on the last page."""

    items: list[WorkflowRow]
    next_cursor: str | None


class StageRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a run. `progress` is 0 to 1, within the open attempt. `compensation`: how far its undoing is, else null."""

    stage: str
    status: str
    weight: int
    attempt: int
    tries: int
    progress: float
    worker: str | None
    started_at: str | None
    finished_at: str | None
    retry_at: str | None
    output: Any
    error: ErrorRow | None
    compensation: str | None


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a stage, or at undoing it (`compensation`). `started_at` is when its latest delivery began."""

    task_id: str
    workflow_id: str
    stage: str
    attempt: int
    agent: str
    worker: str
    status: str
    deliveries: int
    progress: float
    dispatched_at: str
    started_at: str | None
    finished_at: str | None
    error: ErrorRow | None
    compensation: bool


class StallRow(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of the watchdog: it stands while `cleared_at` is null."""

    workflow_id: str
    version: int
    cause: str
    hop: str
    summary: str
    suggestion: str
    evidence: dict[str, Any] | None
    since: str
    cleared_at: str | None


class ParkedRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event that no projection could apply, and why."""

    partition: int
    seq: int
    entry_id: str
    workflow_id: str
    version: int
    type: str
    reason: str
    parked_at: str


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that ended in a worker's hands, on the days that the figures of its agent are of; see `AgentStats`."""

    worker: str
    completed: int
    failed: int
    cancelled: int
    success_rate: float | None
    deliveries: int
    redelivered: int
    mean_wait_seconds: float | None
    mean_run_seconds: float | None


class AgentStats(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's tasks: those that are open, and those that ended on the last day on which any did, or in the days before it.

    `tasks` are all of them, `redelivered` those that were delivered more than once, of all their `deliveries`. `success_rate`
    is over completed and failed ones, null without any; times in seconds. `workers` are those that worked then.
    """

    agent: str
    tasks: int
    open: int
    completed: int
    failed: int
    cancelled: int
    success_rate: float | None
    deliveries: int
    redelivered: int
    mean_wait_seconds: float | None
    mean_run_seconds: float | None
    workers: list[WorkerStats]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole in figures. `by_status` has every status; the last two are of the past hour, by the minute."""

    total: int
    by_status: dict[str, int]
    stalled: int
    parked: int
    open_tasks: dict[str, int]
    created_last_hour: int
    completed_last_hour: int


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """How far a projection has come in a partition, and who reads it now; `problem` is why it stands still."""

    projection: str
    partition: int
    position: str
    seq: int
    confirmed_position: str
    confirmed_seq: int
    event_at: str | None
    updated_at: str
    owner: str | None
    epoch: int
    problem: str | None


def to_row(record: asyncpg.Record, cls: type[R]) -> R:
    """A record of the driver (with JSON decoded) as a row; columns that `cls` does not have are left out."""
    return msgspec.convert({name: _value(value) for name, value in record.items()}, cls)


def rows(records: list[asyncpg.Record], cls: type[R]) -> list[R]:
    """Records of the driver as rows."""
    return [to_row(record, cls) for record in records]


def _value(value: Any) -> Any:
    return to_rfc3339(from_datetime(value)) if isinstance(value, datetime) else value
