"""`hours`: how many runs began and completed in each minute, so that nobody has to count those of the last hour.

Invariant: a batch adds what its runs became and takes off what they were, so these are counts over the rows of `workflows`
that have a version. What is built anew of a single run is first taken off as its row says: this projection comes before
that one.
"""

from __future__ import annotations

from typing import Final

from tailrace.core.clock import from_datetime, to_us
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.batch import Batch
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import Row, document

_SQL = statements("hours")
_MINUTE_US: Final = to_us(60)
_MINUTES: Final = 60


class _Hour(Row, frozen=True, kw_only=True):
    """What is added to one row; `hour` in hours since the epoch."""

    hour: int
    created: list[int]
    completed: list[int]


class _Changes:
    """What is added, by hour."""

    def __init__(self) -> None:
        self.hours: dict[int, _Hour] = {}

    def created(self, at: int, by: int) -> None:
        """Add to the runs that began at a time."""
        hour, minute = self._place(at)
        hour.created[minute] += by

    def completed(self, at: int, by: int) -> None:
        """Add to the runs that completed at a time."""
        hour, minute = self._place(at)
        hour.completed[minute] += by

    def _place(self, at: int) -> tuple[_Hour, int]:
        number, minute = divmod(at // _MINUTE_US, _MINUTES)
        if number not in self.hours:
            self.hours[number] = _Hour(hour=number, created=[0] * _MINUTES, completed=[0] * _MINUTES)
        return self.hours[number], minute


class Hours:
    """The table `hours`."""

    name: Final = "hours"
    counts: Final = "workflows"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Add the difference that the batch makes."""
        changes = _Changes()
        for run in batch.runs.values():
            if run.state is None or run.state is run.before:
                continue
            if run.before is None:
                changes.created(run.state.created_at, 1)
            before, after = _completed_at(run.before), _completed_at(run.state)
            if before != after:
                if before is not None:
                    changes.completed(before, -1)
                if after is not None:
                    changes.completed(after, 1)
        await _add(session, batch.partition, changes)

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the counts of a partition, or one run from them."""
        if workflow_id is None:
            await session.execute(_SQL["clear"], partition)
            return
        changes = _Changes()
        for row in await session.fetch(_SQL["run"], workflow_id):
            changes.created(from_datetime(row["created_at"]), -1)
            if row["completed_at"] is not None:
                changes.completed(from_datetime(row["completed_at"]), -1)
        await _add(session, partition, changes)


async def _add(session: Session, partition: int, changes: _Changes) -> None:
    if changes.hours:
        await session.execute(_SQL["add"], partition, document(list(changes.hours.values())))


def _completed_at(state: WorkflowState | None) -> int | None:
    return state.completed_at if state is not None and state.status == "completed" else None
