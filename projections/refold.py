"""Runs folded again: their rows written anew from what the archive has of them now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailrace.projections import archive, parking
from tailrace.projections.batch import Batch, replay
from tailrace.projections.port import Projection
from tailrace.projections.session import Session

_MAX: Final = 2**63 - 1


async def refold(
    session: Session, partition: int, runs: Sequence[str], projections: Sequence[Projection], *, until: int = _MAX
) -> list[str]:
    """Write the rows of these runs, up to the `seq` `until` and to where they are parked; gives those that have rows.

    Raises `Undecodable`.
    """
    stopped = await parking.parked_runs(session, partition)
    histories = await archive.earlier(session, {run: stopped.get(run, _MAX) for run in runs})
    batch = Batch(partition, (), ())
    for run, history in histories.items():
        entries = [entry for entry in history if entry.seq <= until]
        if entries:
            batch.runs[run] = replay(run, entries)
    for projection in projections:
        for run in runs:
            await projection.clear(session, partition, run)
        await projection.apply(session, batch)
    return list(batch.runs)
