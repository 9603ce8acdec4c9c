"""`diagnose`: why one run does or does not move, asked for by a person; `diagnose_open`: why all open ones do or do not.

Both work without a watchdog, and without Postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import Final

import msgspec

from tailrace.core.engine.command_handler import ArchiveLookup
from tailrace.core.errors import LogDiverged, NotFound, StoreCorrupt, StoreUnavailable, Undecodable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.collect import PROBE_SECONDS, Round
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis
from tailrace.projections.watchdog.divergence import explain_diverged, explain_missing, explain_unreadable
from tailrace.projections.watchdog.motion import Motion
from tailrace.projections.watchdog.read_model import ReadModel, with_read_model
from tailrace.projections.watchdog.rules import judge

#: How long to wait before looking again, where one look can't tell what stands from what moves.
SECOND_LOOK_SECONDS: Final = 1.0


class OpenRuns(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs are open, and what was found of those that had to move soonest, or should have moved longest ago."""

    open: int
    items: Sequence[Diagnosis]


async def diagnose(
    store: WorkflowStore,
    workflow_id: str,
    *,
    read_model: ReadModel | None = None,
    archived: ArchiveLookup | None = None,
    second_look_seconds: float = SECOND_LOOK_SECONDS,
) -> Diagnosis:
    """Why the run does or does not move; raises `NotFound`.

    A store that does not answer, or is not the one that was joined, is a diagnosis too. With `read_model` it says when that is
    behind, or without the run, with `archived` it finds runs that have left the store.
    """
    try:
        try:
            diagnosis = await _judged(store, workflow_id, second_look_seconds)
            if diagnosis is None:
                diagnosis = await explain_missing(store, workflow_id, archived)
        except LogDiverged as error:
            return await explain_diverged(store, workflow_id, error, archived)
        except (StoreCorrupt, Undecodable) as error:
            return await explain_unreadable(store, workflow_id, error, archived)
    except (StoreUnavailable, TimeoutError) as error:
        return _unreachable(workflow_id, str(error) or "it did not answer in time")
    if read_model is None or diagnosis.cause == LogDiverged.code:
        return diagnosis
    return await with_read_model(store, diagnosis, read_model)


async def diagnose_open(
    store: WorkflowStore, *, most: int, second_look_seconds: float = SECOND_LOOK_SECONDS
) -> OpenRuns:
    """Why open runs do or do not move, of at most so many. What they share is looked at once.

    Raises `StoreUnavailable`, `LogDiverged`.
    """
    for partition in range(store.partitions):
        await store.check_identity(partition)
    count = await store.open_count()
    by_partition = [await store.open_workflows(partition, count=most) for partition in range(store.partitions)]
    ids = list(islice((run for runs in zip_longest(*by_partition) for run in runs if run is not None), most))
    motion, found = Motion(), dict[str, Diagnosis]()
    wanted = ids
    for last in (False, True):
        looking, watching = Round(store, await store.now(), motion, thorough=True), list[str]()
        for state in await _readable(store, wanted):
            verdict = judge(await looking.facts(state))
            found[state.workflow_id] = verdict.diagnosis
            if verdict.watching:
                watching.append(state.workflow_id)
        if last or not watching:
            break
        wanted = watching
        await asyncio.sleep(second_look_seconds)
    items = []
    for workflow_id in ids:
        try:
            items.append(found.get(workflow_id) or await diagnose(store, workflow_id, second_look_seconds=0.0))
        except NotFound:
            continue  # there was one a moment ago
    return OpenRuns(open=count, items=items)


async def _readable(store: WorkflowStore, ids: Sequence[str]) -> list[WorkflowState]:
    """The states of these runs, but for those that are gone or can't be read."""
    try:
        return [state for state in await store.load_states(ids) if state is not None] if ids else []
    except (StoreCorrupt, Undecodable):
        if len(ids) == 1:
            return []
        middle = len(ids) // 2
        return [*await _readable(store, ids[:middle]), *await _readable(store, ids[middle:])]


async def _judged(store: WorkflowStore, workflow_id: str, second_look_seconds: float) -> Diagnosis | None:
    """What the rules say of the run as the store has it; None when it has none."""
    motion = Motion()
    partition = partition_of(workflow_id, store.partitions)
    for last in (False, True):
        async with asyncio.timeout(PROBE_SECONDS):
            await store.check_identity(partition)
            state = await _load(store, workflow_id)
        if state is None:
            return None
        verdict = judge(await Round(store, await store.now(), motion, thorough=True).facts(state))
        if last or not verdict.watching:
            break
        await asyncio.sleep(second_look_seconds)
    return verdict.diagnosis


async def _load(store: WorkflowStore, workflow_id: str) -> WorkflowState | None:
    """Read as a command reads it: with the request and the outputs, which may be what is broken."""
    snapshot = await store.load(workflow_id)
    return None if snapshot is None else snapshot.state


def _unreachable(workflow_id: str, problem: str) -> Diagnosis:
    return Diagnosis(
        workflow_id=workflow_id,
        status="unknown",
        cause="store-unreachable",
        hop=CAUSES["store-unreachable"].hop,
        summary=f"the store can't be reached, so nothing is known of the run: {problem}",
        healthy=False,
        at=None,
        suggestion="tailrace doctor",
        unreachable=("store",),
    )
