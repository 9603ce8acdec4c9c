"""What `why` adds about the read model: it is behind, stands, or does without this run. The run itself is fine then.

It is a word beside the cause where the run stands for another reason; the cause where nothing else is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from tailrace.core.errors import LogDiverged, ReadModelUnavailable, StoreUnavailable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.projections.watchdog.collect import PROBE_SECONDS
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary

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


class Parked(Protocol):
    """An event that no projection could apply, or one behind it."""

    @property
    def workflow_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def reason(self) -> str: ...


class ReadModel(Protocol):
    """What is asked of the read model; each raises `ReadModelUnavailable`."""

    async def checkpoints(self) -> Sequence[Checkpoint]: ...
    async def parked(self, workflow_id: str | None = None, *, limit: int = 100) -> Sequence[Parked]: ...


class _Trouble(msgspec.Struct, frozen=True, kw_only=True):
    cause: str
    summary: str
    suggestion: str
    evidence: dict[str, Any]


async def with_read_model(store: WorkflowStore, diagnosis: Diagnosis, read_model: ReadModel) -> Diagnosis:
    """The diagnosis with what is wrong with the read model, where that is worth a word."""
    partition = partition_of(diagnosis.workflow_id, store.partitions)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            rows = await read_model.checkpoints()
            parked = await read_model.parked(diagnosis.workflow_id)
            head = await store.head(partition)
    except (ReadModelUnavailable, StoreUnavailable, LogDiverged, TimeoutError):
        return msgspec.structs.replace(diagnosis, unreachable=(*diagnosis.unreachable, "read model"))
    trouble = _parked(parked) or _behind([row for row in rows if row.partition == partition], head.seq)
    if trouble is None:
        return diagnosis
    hop = CAUSES[trouble.cause].hop
    if diagnosis.cause is not None or not diagnosis.healthy:
        found = Secondary(cause=trouble.cause, hop=hop, summary=trouble.summary)
        return msgspec.structs.replace(diagnosis, secondary=(*diagnosis.secondary, found))
    return msgspec.structs.replace(
        diagnosis,
        cause=trouble.cause,
        hop=hop,
        summary=f"{diagnosis.summary}; lists and history lag: {trouble.summary}",
        suggestion=trouble.suggestion,
        evidence={**diagnosis.evidence, **trouble.evidence},
    )


def _parked(rows: Sequence[Parked]) -> _Trouble | None:
    if not rows:
        return None
    first = min(rows, key=lambda row: row.version)
    return _Trouble(
        cause="projection-parked",
        summary=f"event {first.version} of the run could not be applied, and all {len(rows)} from there on are parked: "
        f"{first.reason}",
        # Newer code, or a mended table, may read them.
        suggestion=f"tailrace projections redrive {first.workflow_id}",
        evidence={"parked": len(rows), "first_version": first.version, "reason": first.reason},
    )


def _behind(rows: Sequence[Checkpoint], head: int) -> _Trouble | None:
    behind = [row for row in rows if row.problem or head - row.seq > LAG]
    if not behind:
        return None
    worst = max(behind, key=lambda row: (bool(row.problem), head - row.seq))
    evidence = {"projection": worst.projection, "lag": head - worst.seq}
    summary = f"projection {worst.projection} is {head - worst.seq} events behind in partition {worst.partition}"
    if worst.problem and worst.problem.startswith(LogDiverged.code):
        # The reader stopped because what it read before is not in this log: waiting does not help.
        summary = f"{summary}: {worst.problem}"
        return _Trouble(
            cause=LogDiverged.code, summary=summary, suggestion="tailrace projections repair", evidence=evidence
        )
    summary += f": {worst.problem}" if worst.problem else ""
    return _Trouble(cause="projection-behind", summary=summary, suggestion="tailrace projector", evidence=evidence)
