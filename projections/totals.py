"""`totals`: how many runs there are, by status, so that nobody has to count them.

Invariant: a batch adds what its runs became and takes off what they were, so these are counts over the rows of `workflows`
that have a version. What is built anew of a single run is first taken off as its row says: this projection comes before
that one.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from tailrace.projections.batch import Batch
from tailrace.projections.session import Session
from tailrace.projections.sql import statements

_SQL = statements("totals")


class Totals:
    """The table `totals`."""

    name: Final = "totals"
    counts: Final = "workflows"

    async def apply(self, session: Session, batch: Batch) -> None:
        """Add the difference that the batch makes."""
        changes: Counter[str] = Counter()
        for run in batch.runs.values():
            if run.state is not None and run.state is not run.before:
                changes[run.state.status] += 1
                if run.before is not None:
                    changes[run.before.status] -= 1
        changed = {status: runs for status, runs in changes.items() if runs}
        if changed:
            await session.execute(_SQL["add"], batch.partition, list(changed), list(changed.values()))

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the counts of a partition, or one run from them."""
        if workflow_id is None:
            await session.execute(_SQL["clear"], partition)
        else:
            await session.execute(_SQL["subtract"], partition, workflow_id)
