"""What to say of a run whose state the store does not give although the run was there: `log-diverged`, with what is left.

Redis was emptied or is another one, somebody removed the run's hash, or its bytes can't be decoded. Nothing of this is seen
in the answers about queues and reports; so these runs are not judged by the rules, but by what archive and log have of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from tailrace.core.clock import to_rfc3339
from tailrace.core.engine.command_handler import ArchiveLookup
from tailrace.core.errors import LogDiverged, NotFound, ReadModelUnavailable, TailraceError
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary
from tailrace.projections.watchdog.facts import Facts
from tailrace.projections.watchdog.rules import judge

CAUSE: Final = LogDiverged.code

#: How long a log is searched for the events of a run, and how many entries are read at a time.
SEARCH_SECONDS: Final = 1.0
_PAGE: Final = 1000
_ARCHIVE: Final = "archive"


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a run: its state folded from the archive, and the last of its `logged` events in the log."""

    archived: WorkflowState | None = None
    archive_broken: bool = False
    unavailable: tuple[str, ...] = ()
    logged: int = 0
    version: int = 0
    last_event: str = ""

    def evidence(self) -> dict[str, Any]:
        """What a person wants to see of it."""
        found: dict[str, Any] = {"events_in_log": self.logged}
        if self.logged:
            found |= {"last_event": self.last_event, "last_version_in_log": self.version}
        if self.archived is not None:
            found |= {"archived_version": self.archived.version, "archived_status": self.archived.status}
        return found


async def explain_diverged(
    store: WorkflowStore, workflow_id: str, error: LogDiverged, archived: ArchiveLookup | None
) -> Diagnosis:
    """The store is not the one that was joined. A run that ended before is as it was archived."""
    remains = await _archived(workflow_id, archived)
    now = await store.now()
    if remains.archived is not None and remains.archived.terminal:
        ended = _ended(remains.archived, error.partition, now)
        beside = Secondary(cause=CAUSE, hop=CAUSES[CAUSE].hop, summary=str(error))
        return msgspec.structs.replace(ended, secondary=(*ended.secondary, beside))
    known = "nothing is known of the run"
    if remains.archived is not None:
        known = f"the run is {remains.archived.status} in the archive, and Redis has nothing of it any more"
    return _diagnosis(
        workflow_id,
        remains,
        now,
        summary=f"{error}; {known}. Put the data of this Redis back: all processes go on by themselves",
        suggestion="tailrace doctor",
        evidence={"partition": error.partition, "joined": store.instance_id, **remains.evidence()},
    )


async def explain_missing(store: WorkflowStore, workflow_id: str, archived: ArchiveLookup | None) -> Diagnosis:
    """The store has no state of the run; raises `NotFound` when nobody else has anything of it either."""
    remains = await _archived(workflow_id, archived)
    now, partition = await store.now(), partition_of(workflow_id, store.partitions)
    if remains.archived is not None and remains.archived.terminal:
        return _ended(remains.archived, partition, now)
    remains = await _searched(store, workflow_id, remains)
    if remains.archived is None and not remains.logged:
        if _ARCHIVE in remains.unavailable:
            raise ReadModelUnavailable(f"the store has nothing of run {workflow_id}, and the archive can't be asked")
        if not remains.archive_broken:
            raise NotFound("workflow", workflow_id)
    summary = (
        "the store has no state of the run, which did not end, and its events are there: somebody removed its hash"
    )
    if remains.archived is None and not remains.logged:
        summary = f"the store has nothing of the run, and can't be compared with the {'; '.join(remains.unavailable)}"
    return _diagnosis(
        workflow_id,
        remains,
        now,
        summary=summary,
        suggestion=_again(remains),
        evidence={"partition": partition, "hash": "missing", **remains.evidence()},
    )


async def explain_unreadable(
    store: WorkflowStore, workflow_id: str, error: TailraceError, archived: ArchiveLookup | None
) -> Diagnosis:
    """The store has the run, and what it holds is no state."""
    remains = await _searched(store, workflow_id, await _archived(workflow_id, archived))
    return _diagnosis(
        workflow_id,
        remains,
        await store.now(),
        summary=f"the state of the run can't be read, so nothing moves it: {error}",
        # Its reports are parked and no command gets through; only whoever broke the hash can mend it.
        suggestion=f"tailrace events {workflow_id}",
        evidence={
            "partition": partition_of(workflow_id, store.partitions),
            "hash": "unreadable",
            "reason": error.code,
            **remains.evidence(),
        },
    )


def _ended(state: WorkflowState, partition: int, now: int) -> Diagnosis:
    """How a run ended is in its state; the store has nothing to add."""
    facts = Facts(
        now=now,
        state=state,
        partition=partition,
        pipeline=None,
        agents={},
        orchestration=None,
        reports=None,
        entries=None,
        still_us={},
        fullness=None,
    )
    return judge(facts).diagnosis


def _again(remains: Remains) -> str:
    """A command loads the run from the archive, if that has all of it, and closes what was open; then it begins anew."""
    state = remains.archived
    if state is None or state.version < remains.version:
        return "tailrace doctor"
    stage = f" --from-stage {state.current_stage}" if state.current_stage else ""
    return f"tailrace cancel {state.workflow_id} && tailrace retry {state.workflow_id}{stage}"


async def _archived(workflow_id: str, archived: ArchiveLookup | None) -> Remains:
    if archived is None:
        return Remains()
    try:
        snapshot = await archived(workflow_id)
    except ReadModelUnavailable:
        return Remains(unavailable=(_ARCHIVE,))
    except TailraceError as error:
        return Remains(unavailable=(f"{_ARCHIVE}: {error.code}: {error}",), archive_broken=True)
    return Remains(archived=None if snapshot is None else snapshot.state)


async def _searched(store: WorkflowStore, workflow_id: str, remains: Remains) -> Remains:
    """With the run's events in the log, as far as they are found in time."""
    state = remains.archived
    # Entry ids begin with the store's time in milliseconds: nothing of a run is older than the run.
    position = "0-0" if state is None else f"{max(0, state.created_at // 1000 - 1)}-0"
    partition = partition_of(workflow_id, store.partitions)
    try:
        async with asyncio.timeout(SEARCH_SECONDS):
            while entries := await store.read_log(partition, position, count=_PAGE):
                own = [entry for entry in entries if entry.workflow_id == workflow_id]
                if own:
                    logged, last = remains.logged + len(own), own[-1]
                    remains = msgspec.structs.replace(
                        remains, logged=logged, version=last.version, last_event=last.type
                    )
                position = entries[-1].entry_id
    except TimeoutError:
        return msgspec.structs.replace(remains, unavailable=(*remains.unavailable, "the end of the log"))
    return remains


def _diagnosis(
    workflow_id: str, remains: Remains, now: int, *, summary: str, suggestion: str, evidence: dict[str, Any]
) -> Diagnosis:
    state = remains.archived
    return Diagnosis(
        workflow_id=workflow_id,
        status="unknown" if state is None else state.status,
        cause=CAUSE,
        hop=CAUSES[CAUSE].hop,
        summary=summary,
        healthy=False,
        at=to_rfc3339(now),
        suggestion=suggestion,
        evidence=evidence,
        unreachable=remains.unavailable,
    )
