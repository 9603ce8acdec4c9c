"""`diagnose`: why one run does or does not move, asked for by a person. Works without a watchdog, and without Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from tailrace.core.engine.command_handler import ArchiveLookup
from tailrace.core.errors import LogDiverged, ReadModelUnavailable, StoreCorrupt, StoreUnavailable, Undecodable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.collect import PROBE_SECONDS, Round
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary
from tailrace.projections.watchdog.divergence import explain_diverged, explain_missing, explain_unreadable
from tailrace.projections.watchdog.motion import Motion
from tailrace.projections.watchdog.rules import judge

#: How long to wait before looking again, where one look can't tell what stands from what moves.
SECOND_LOOK_SECONDS: Final = 1.0

#: How many events a projection may be behind without a word.
LAG: Final = 500


class Checkpoint(Protocol):
    """How far a projection has come in a partition; `problem` says why it stands."""

    @property
    def projection(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def problem(self) -> str | None: ...


#: Asks the read model; raises `ReadModelUnavailable`.
Checkpoints = Callable[[], Awaitable[Sequence[Checkpoint]]]


async def diagnose(
    store: WorkflowStore,
    workflow_id: str,
    *,
    checkpoints: Checkpoints | None = None,
    archived: ArchiveLookup | None = None,
    second_look_seconds: float = SECOND_LOOK_SECONDS,
) -> Diagnosis:
    """Why the run does or does not move; raises `NotFound`.

    A store that does not answer, or is not the one that was joined, is a diagnosis too. With `checkpoints` it says when the
    read model is behind, with `archived` it finds runs that have left the store.
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
    if checkpoints is None or diagnosis.cause == LogDiverged.code:
        return diagnosis
    return await _with_read_model(store, diagnosis, checkpoints)


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


async def _with_read_model(store: WorkflowStore, diagnosis: Diagnosis, checkpoints: Checkpoints) -> Diagnosis:
    """The diagnosis with how far the read model is, where that is worth a word."""
    partition = partition_of(diagnosis.workflow_id, store.partitions)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            rows = await checkpoints()
            head = await store.head(partition)
    except (ReadModelUnavailable, StoreUnavailable, LogDiverged, TimeoutError):
        return msgspec.structs.replace(diagnosis, unreachable=(*diagnosis.unreachable, "read model"))
    behind = [row for row in rows if row.partition == partition and (row.problem or head.seq - row.seq > LAG)]
    if not behind:
        return diagnosis
    worst = max(behind, key=lambda row: (bool(row.problem), head.seq - row.seq))
    summary = f"projection {worst.projection} is {head.seq - worst.seq} events behind in partition {partition}"
    summary += f": {worst.problem}" if worst.problem else ""
    hop = CAUSES["projection-behind"].hop
    if diagnosis.cause is not None or not diagnosis.healthy:
        found = Secondary(cause="projection-behind", hop=hop, summary=summary)
        return msgspec.structs.replace(diagnosis, secondary=(*diagnosis.secondary, found))
    return msgspec.structs.replace(
        diagnosis,
        cause="projection-behind",
        hop=hop,
        summary=f"{diagnosis.summary}; lists and history lag: {summary}",
        suggestion="tailrace projections status",
        evidence={**diagnosis.evidence, "projection": worst.projection, "lag": head.seq - worst.seq},
    )
