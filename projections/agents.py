"""`agents`: what became of tasks, for each agent and worker, by the day on which they ended.

Invariant: a task is counted once, with the row that it ends with, so these are sums over the rows of `tasks` that have ended.
What is built anew of a single run is first subtracted as its rows in `tasks` say: this projection comes before that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tailrace.core.clock import to_us
from tailrace.projections.batch import Batch
from tailrace.projections.fold import Run, TaskRow
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document, text

_SQL = statements("agents")
_DAY_US: Final = to_us(86_400)


class _Sums(Row, frozen=True, kw_only=True):
    """What is added to one row; `day` in days since the epoch."""

    agent: str
    worker: str
    day: int
    completed: int
    failed: int
    cancelled: int
    deliveries: int
    redelivered: int
    started: int
    wait_us: int
    run_us: int


class Agents:
    """The table `agents`."""

    name: Final = "agents"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Add the tasks that ended in the batch."""
        sums = _sums(batch.runs.values())
        if sums:
            await session.execute(_SQL["add"], batch.partition, document(sums))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or what one run's tasks have added to them."""
        if workflow_id is None:
            await session.execute(_SQL["clear"], partition)
        else:
            await session.execute(_SQL["subtract"], partition, workflow_id)
            await session.execute(_SQL["tidy"], partition)


def _sums(runs: Iterable[Run]) -> list[_Sums]:
    found: dict[tuple[str, str, int], dict[str, int]] = {}
    for run in runs:
        for task in run.tasks.values():
            if task.finished_at is not None:
                # (Names as Postgres will have them: two that become one there are one row.)
                key = text(task.agent), text(task.worker), task.finished_at // _DAY_US
                sums = found.setdefault(key, {})
                for name, value in _counted(task, task.finished_at).items():
                    sums[name] = sums.get(name, 0) + value
    return [_Sums(agent=agent, worker=worker, day=day, **sums) for (agent, worker, day), sums in found.items()]


def _counted(task: TaskRow, finished_at: int) -> dict[str, int]:
    started_at = task.started_at
    return {
        "completed": task.status == "completed",
        "failed": task.status == "failed",
        "cancelled": task.status == "cancelled",
        "deliveries": task.deliveries,
        "redelivered": task.deliveries > 1,
        "started": started_at is not None,
        "wait_us": 0 if started_at is None else started_at - task.dispatched_at,
        "run_us": 0 if started_at is None else finished_at - started_at,
    }
