"""Looks at a whole namespace: that its logs are dense, fold to what is stored, and follow from the commands in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tailrace.core.codec import decode_command, decode_event, encode, encode_event
from tailrace.core.commands import CreateWorkflow
from tailrace.core.store.port import RawEntry, WorkflowStore
from tailrace.core.workflow.history import Record, fold, step
from tailrace.core.workflow.state import WorkflowState

_PAGE = 1000


async def whole_log(store: WorkflowStore, partition: int, archived: Sequence[RawEntry] = ()) -> list[RawEntry]:
    """Every entry of a partition's log, with those before them that are archived; what is in both has to be the same."""
    found: list[RawEntry] = []
    while page := await store.read_log(partition, found[-1].entry_id if found else "0-0", count=_PAGE):
        found += page
    kept = {entry.seq: entry for entry in found}
    assert all(kept.get(entry.seq, entry) == entry for entry in archived), (
        f"partition {partition} is archived otherwise"
    )
    return [*(entry for entry in archived if entry.seq not in kept), *found]


async def histories(
    store: WorkflowStore, archive: Mapping[int, Sequence[RawEntry]] | None = None
) -> dict[str, list[RawEntry]]:
    """The log of each run, in its order; fails when a partition's `seq` or a run's `version` has a hole.

    `archive` has what is archived of each partition, whose logs may have been trimmed.
    """
    runs: dict[str, list[RawEntry]] = {}
    for partition in range(store.partitions):
        entries = await whole_log(store, partition, (archive or {}).get(partition, ()))
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1)), f"partition {partition} has holes"
        assert (await store.head(partition)).seq == len(entries)
        for entry in entries:
            runs.setdefault(entry.workflow_id, []).append(entry)
    for workflow_id, entries in runs.items():
        assert [entry.version for entry in entries] == list(range(1, len(entries) + 1)), workflow_id
    return runs


def record(entry: RawEntry) -> Record:
    """A log entry, decoded."""
    decoded = decode_event(entry.type, entry.data)
    return Record(
        partition=entry.partition,
        entry_id=entry.entry_id,
        seq=entry.seq,
        workflow_id=entry.workflow_id,
        version=entry.version,
        type=entry.type,
        at=decoded.at,
        event=decoded.event,
        command=decoded.command,
        traceparent=entry.traceparent,
    )


async def audit(
    store: WorkflowStore,
    archive: Mapping[int, Sequence[RawEntry]] | None = None,
    forgotten: Mapping[str, int] | None = None,
) -> dict[str, list[RawEntry]]:
    """Fail unless every run is stored as the fold of its log, byte for byte; gives the log of each run.

    Those that are `forgotten`, each at its version, have to have ended at it.
    """
    runs = await histories(store, archive)
    for workflow_id, entries in runs.items():
        folded = fold([record(entry) for entry in entries])
        stored = await store.load(workflow_id)
        assert folded is not None, workflow_id
        if forgotten is not None and workflow_id in forgotten:
            ended = folded.state.version if folded.state.terminal else None
            assert (stored, forgotten[workflow_id]) == (None, ended), f"{workflow_id} was forgotten before its end"
            continue
        assert stored is not None, workflow_id
        assert encode(stored.state) == encode(folded.state), (stored.state, folded.state)
        assert (stored.created, stored.outputs) == (folded.created, folded.outputs), workflow_id
    return runs


async def decided_again(store: WorkflowStore, entries: list[RawEntry]) -> list[tuple[str, bytes]]:
    """Type and bytes of each event of a run, as today's decider makes them from the commands in its log."""
    made: list[tuple[str, bytes]] = []
    state: WorkflowState | None = None
    while len(made) < len(entries):
        place = record(entries[len(made)])
        assert place.command is not None, f"{place.type} does not follow from the command before it"
        command = decode_command(place.command)
        if isinstance(command, CreateWorkflow):
            pipeline = await store.pipeline(command.definition)
        state, decided = step(
            pipeline,
            state,
            command,
            now=place.command.now,
            command_id=place.command.id,
            actor=place.command.actor,
            traceparent=place.traceparent,
        )
        assert decided, f"{place.command.type} leads to nothing now"
        made += [
            (type(item.event).__name__, encode_event(item.event, at=item.at, command=item.command)) for item in decided
        ]
    return made
