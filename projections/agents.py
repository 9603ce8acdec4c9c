"""`agents`: what became of tasks, for each agent and worker, by the day on which they ended.

Invariant: a task is counted once, with the row that it ends with, so these are sums over the rows of `tasks` that have ended.
What is built anew of a single run is first subtracted as its rows in `tasks` say: this projection comes before that one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import asdict

from tailrace.core.clock import to_us
from tailrace.projections.batch import Batch
from tailrace.projections.fold import Run, TaskRow
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document, text

_SQL = statements("agents")
_DAY_US: Final = to_us(86_400)


class _Counts(msgspec.Struct, kw_only=True):
    """What is added up for one row; a mutable one, because this is done for every task."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    deliveries: int = 0
    redelivered: int = 0
    started: int = 0
    wait_us: int = 0
    run_us: int = 0

    def add(self, task: TaskRow, finished_at: int) -> None:
        """Count a task that has ended."""
        if task.status == "completed":
            self.completed += 1
        elif task.status == "failed":
            self.failed += 1
        else:
            self.cancelled += 1
        self.deliveries += task.deliveries
        if task.deliveries > 1:
            self.redelivered += 1
        started_at = task.started_at
        if started_at is not None:
            self.started += 1
            self.wait_us += started_at - task.dispatched_at
            self.run_us += finished_at - started_at


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
    counts: Final = "tasks"

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
    found: dict[tuple[str, str, int], _Counts] = {}
    for run in runs:
        for task in run.tasks.values():
            finished_at = task.finished_at
            if finished_at is not None:
                key = task.agent, task.worker, finished_at // _DAY_US
                counts = found.get(key)
                if counts is None:
                    # (Names as Postgres will have them: two that become one there are one row.)
                    counts = found.setdefault((text(task.agent), text(task.worker), key[2]), _Counts())
                    found[key] = counts
                counts.add(task, finished_at)
    return [
        _Sums(agent=agent, worker=worker, day=day, **asdict(counts))
        for (agent, worker, day), counts in found.items()
        if (agent, worker) == (text(agent), text(worker))
    ]
