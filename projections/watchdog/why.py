"""`diagnose`: why one run does or does not move, asked for by a person. Works without a watchdog, and without Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from tailrace.core.engine.command_handler import ArchiveLookup
from tailrace.core.errors import NotFound, ReadModelUnavailable, StoreUnavailable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.collect import PROBE_SECONDS, Round
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary
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

    A store that does not answer is a diagnosis too. With `checkpoints` it says when the read model is behind, with `archived`
    it finds runs that have left the store.
    """
    motion = Motion()
    try:
        state = await _load(store, workflow_id, archived)
        verdict = judge(await Round(store, await store.now(), motion, thorough=True).facts(state))
        if verdict.watching:
            await asyncio.sleep(second_look_seconds)
            state = await _load(store, workflow_id, archived)
            verdict = judge(await Round(store, await store.now(), motion, thorough=True).facts(state))
    except (StoreUnavailable, TimeoutError) as error:
        return _unreachable(workflow_id, str(error) or "it did not answer in time")
    if checkpoints is None:
        return verdict.diagnosis
    return await _with_read_model(store, verdict.diagnosis, checkpoints)


async def _load(store: WorkflowStore, workflow_id: str, archived: ArchiveLookup | None) -> WorkflowState:
    async with asyncio.timeout(PROBE_SECONDS):
        (state,) = await store.load_states([workflow_id])
    if state is None and archived is not None:
        snapshot = await archived(workflow_id)
        state = None if snapshot is None else snapshot.state
    if state is None:
        raise NotFound("workflow", workflow_id)
    return state


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
    except (ReadModelUnavailable, StoreUnavailable, TimeoutError):
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
