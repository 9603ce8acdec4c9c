"""Parked runs, tried again: newer code, or a mended database, may hold what could not be held before.

Invariant: a run comes back whole or stays parked. Its rows are built from its archived history from the first event on,
in one transaction that also forgets that it was parked, and that the owner's epoch guards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from tailrace.core.errors import Undecodable
from tailrace.projections import archive, checkpoints, parking
from tailrace.projections.archive import Archive
from tailrace.projections.batch import Batch, replay
from tailrace.projections.ownership import Tenure
from tailrace.projections.port import Projection
from tailrace.projections.session import Session, is_poison

_log = logging.getLogger(__name__)

#: How many runs are tried each time a partition is taken.
LIMIT: Final = 1000


async def retry_parked(
    session: Session,
    tenure: Tenure,
    projections: Sequence[Projection],
    parked: dict[str, int],
    *,
    limit: int | None = LIMIT,
) -> None:
    """Try the parked runs of a partition again, and take those out of `parked` that could be applied.

    All projections must be at the same place. Raises `PartitionLost`, and what is in `session.UNAVAILABLE`.
    """
    for workflow_id in sorted(parked)[:limit]:
        if await _retry(session, tenure, projections, workflow_id):
            del parked[workflow_id]
            _log.info("run %s is projected again", workflow_id)


async def _retry(session: Session, tenure: Tenure, projections: Sequence[Projection], workflow_id: str) -> bool:
    wanted = await parking.last_parked_version(session, workflow_id)
    history = (await archive.earlier(session, {workflow_id: wanted + 1})).get(workflow_id, [])
    if not history or history[-1].version != wanted:
        return False  # something of it could not even be archived
    batch = Batch(tenure.partition, (), ())
    try:
        batch.runs[workflow_id] = replay(workflow_id, history)
        async with session.transaction():
            await checkpoints.hold(session, tenure.partition, tenure.epoch)
            for projection in projections:
                if projection.name != Archive.name:
                    await projection.clear(session, tenure.partition, workflow_id)
                    await projection.apply(session, batch)
            await archive.derive(session, history)
            await parking.unpark(session, workflow_id)
    except Undecodable:
        return False
    except Exception as error:
        if not is_poison(error):
            raise
        return False
    return True
