"""Parking: what no projection could apply is kept with its reason, and its run says so. Never silent, never lost.

Once one event of a run is parked, all later ones are too: rows never show a history with a hole. When a projector takes
a partition it tries parked runs again, because newer code may read what older code could not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailrace.projections.batch import Batch, ParkedEntry
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import entry_time, text

_SQL = statements("parking")
_MAX_BIGINT = 2**63 - 1


async def parked_runs(session: Session, partition: int) -> dict[str, int]:
    """Runs of a partition with parked events, and the version each stopped before."""
    return {row["workflow_id"]: row["version"] for row in await session.fetch(_SQL["runs"], partition)}


async def park(session: Session, batch: Batch) -> None:
    """Keep what the batch could not apply, and mark the runs; the first reason of a run stands."""
    if not batch.parked:
        return
    await session.executemany(_SQL["park"], [_row(item) for item in batch.parked])
    await mark(session, [item.entry.workflow_id for item in batch.parked if item.first])


async def mark(session: Session, workflow_ids: Sequence[str]) -> None:
    """Let runs say that they are parked, and why."""
    if workflow_ids:
        await session.execute(_SQL["mark"], [text(workflow_id) for workflow_id in workflow_ids])


async def last_parked_version(session: Session, workflow_id: str) -> int:
    """The highest version of a parked run that came so far."""
    version: int = await session.fetchval(_SQL["last_version"], workflow_id)
    return version


async def unpark(session: Session, workflow_id: str) -> None:
    """Forget that a run was parked; its rows have been written anew."""
    await session.execute(_SQL["unpark"], workflow_id)


def _row(item: ParkedEntry) -> tuple[Any, ...]:
    entry = item.entry
    return (
        entry.partition,
        entry.seq,
        text(entry.entry_id),
        text(entry.workflow_id),
        _fitting(entry.version),
        text(entry.type),
        text(entry.traceparent),
        entry_time(entry.entry_id),
        entry.data,
        text(item.reason),
    )


def _fitting(version: int) -> int:
    return min(version, _MAX_BIGINT)
