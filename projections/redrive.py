"""Redrive: parked runs tried again when somebody asks, by the code that is asked.

Invariant: nobody but a partition's owner tries its runs, because a projector remembers which of them are parked. So the
partition is taken over and given back, and the projector that had it begins again with what it finds.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from tailrace.core.errors import ReadModelUnavailable
from tailrace.projections import checkpoints, ownership, parking
from tailrace.projections.beside import archived, rebuildable
from tailrace.projections.checkpoints import PartitionLost
from tailrace.projections.retry import retry_parked
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable

#: How long a partition is kept from its projector without a word.
LEASE_SECONDS: Final = 30.0


class Redriven(msgspec.Struct, frozen=True, kw_only=True):
    """A partition whose parked runs were tried: those that are projected again, and those that are still parked."""

    partition: int
    runs: list[str]
    parked: list[str]


async def redrive(url: str, workflow_id: str | None = None) -> list[Redriven]:
    """Try the parked runs of all partitions, or one run; gives the partitions that have any.

    A projector may run: it takes its partitions again by itself. Raises `ReadModelUnavailable`.
    """
    try:
        session = await connect(url, "tailrace redrive")
        try:
            found = [await _redrive(session, partition, workflow_id) for partition in await archived(session)]
        finally:
            session.terminate()
    except PartitionLost:
        raise ReadModelUnavailable("a projector took a partition meanwhile; what is done is done, try again") from None
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    return [redriven for redriven in found if redriven is not None]


async def _redrive(session: Session, partition: int, workflow_id: str | None) -> Redriven | None:
    if not _wanted(await parking.parked_runs(session, partition), workflow_id):
        return None
    name = f"redrive-{secrets.token_hex(3)}"
    tenure = await ownership.take_over(session, name, partition, lease_seconds=LEASE_SECONDS)
    if tenure is None:
        return None
    try:
        places = await checkpoints.places(session, partition, tenure.epoch)
        if len(set(places.values())) > 1:
            raise ReadModelUnavailable(f"partition {partition} is being built; redrive when it has caught up")
        parked = _wanted(await parking.parked_runs(session, partition), workflow_id)
        tried = sorted(parked)
        await retry_parked(session, tenure, rebuildable(), parked, limit=None)
    finally:
        if not session.is_closed():
            await ownership.release(session, name, {partition: tenure.epoch})
    return Redriven(partition=partition, runs=[run for run in tried if run not in parked], parked=sorted(parked))


def _wanted(parked: dict[str, int], workflow_id: str | None) -> dict[str, int]:
    return {run: version for run, version in parked.items() if workflow_id in {None, run}}
