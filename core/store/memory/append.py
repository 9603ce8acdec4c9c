"""APPEND in memory: all checks before the first write, then everything in one step.

The order of the checks is part of the contract: arguments, ownership, cause still there, timer may fire, version.
"""

from __future__ import annotations

import msgspec

from tailrace.core.codec import encode_event
from tailrace.core.store.checks import check_append
from tailrace.core.store.memory.partition import LogEntry, OpenTaskEntry, Partition, Run
from tailrace.core.store.memory.streams import RELEASED, EntryId, TaskEntry, read_id
from tailrace.core.store.port import Append, Appended, Closing, Dispatch, Ownership
from tailrace.core.workflow.state import WorkflowState, encode_state


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """An append whose arguments are right, with everything encoded that will be written."""

    append: Append
    reports: tuple[EntryId, ...]
    state: bytes
    data: tuple[bytes, ...]


def prepare(append: Append) -> Prepared:
    """Check the arguments and encode; raises `InvalidInput` or what the encoder raises, before anything is written."""
    check_append(append)
    return Prepared(
        append=append,
        reports=tuple(read_id(entry_id) for entry_id in append.reports),
        state=b"" if append.state is None else encode_state(append.state),
        data=tuple(encode_event(record.event, at=record.at, command=record.command) for record in append.records),
    )


def carry_out(partition: Partition, prepared: Prepared, now_us: int, *, full: bool) -> Appended:
    """Write an append, or say why not."""
    append = prepared.append
    run = partition.runs.get(append.workflow_id)
    refusal = _refusal(partition, prepared, run, now_us)
    if refusal is None and full and append.expected_version == 0:
        refusal = Appended(outcome="full")
    if refusal is not None:
        return refusal
    for entry_id in prepared.reports:
        partition.reports.delete(entry_id)
    if append.timer is not None:
        partition.timers.pop(append.timer.name, None)
    if append.records or append.rehydrate:
        assert append.state is not None
        run = _store(partition, prepared, run)
        _log(partition, prepared, now_us)
        for closing in append.closings:
            _close(partition, run, closing, append.workflow_id, now_us)
        for dispatch in append.dispatches:
            _put(partition, run, dispatch, now_us)
        _schedule(partition, append, append.state)
    assert run is not None
    return Appended(outcome="ok", version=run.version, seq=partition.seq)


def _refusal(partition: Partition, prepared: Prepared, run: Run | None, now_us: int) -> Appended | None:
    append = prepared.append
    version = 0 if run is None else run.version
    if append.ownership is not None and not owns(partition, append.ownership, now_us):
        return Appended(outcome="not-owner", version=version)
    if any(entry_id not in partition.reports.entries for entry_id in prepared.reports):
        return Appended(outcome="gone", version=version)
    if append.timer is not None:
        if partition.timers.get(append.timer.name) != append.timer.due_at:
            return Appended(outcome="gone", version=version)
        if _must_wait(partition, append.timer.due_at, now_us):
            return Appended(outcome="wait", version=version)
    return _presence(append, run)


def _presence(append: Append, run: Run | None) -> Appended | None:
    """Why an append can't be written onto what is there, or nothing."""
    if run is None:
        if append.expected_version == 0 or append.rehydrate:
            return None
        return Appended(outcome="missing")
    version = run.version
    if append.expected_version == 0 or (append.rehydrate and not run.is_tombstone):
        return Appended(outcome="exists", version=version)
    if run.is_tombstone and not append.rehydrate:
        return Appended(outcome="missing", version=version)
    if append.expected_version != version:
        return Appended(outcome="conflict", version=version)
    return None


def owns(partition: Partition, ownership: Ownership, now_us: int) -> bool:
    """True while this very ownership holds."""
    owner = partition.owner
    held = (owner.name, owner.epoch) == (ownership.name, ownership.epoch) and partition.number == ownership.partition
    return held and now_us < owner.until_us


def _must_wait(partition: Partition, due_at: int, now_us: int) -> bool:
    """A timer rests while the store has just come back, and while a report that is not younger is unapplied."""
    oldest = partition.reports.oldest()
    return partition.rests(now_us) or (oldest is not None and oldest[0] * 1000 <= due_at)


def _store(partition: Partition, prepared: Prepared, run: Run | None) -> Run:
    append = prepared.append
    assert append.state is not None
    if run is None or run.is_tombstone:
        assert append.created is not None
        run = partition.runs[append.workflow_id] = Run(version=0, state=b"", created=append.created)
    run.version = append.state.version
    run.state = prepared.state
    run.outputs.update(append.outputs)
    return run


def _log(partition: Partition, prepared: Prepared, now_us: int) -> None:
    append = prepared.append
    for offset, (record, data) in enumerate(zip(append.records, prepared.data, strict=True), start=1):
        partition.seq += 1
        entry = LogEntry(
            seq=partition.seq,
            workflow_id=append.workflow_id,
            version=append.expected_version + offset,
            type=type(record.event).__name__,
            traceparent=record.traceparent,
            data=data,
        )
        partition.log.add(entry, now_us)


def _close(partition: Partition, run: Run, closing: Closing, workflow_id: str, now_us: int) -> None:
    """A queued entry goes; one that a worker holds stays, marked, until its last report or its lease's end."""
    place = run.open_tasks.pop(closing.task_id, None)
    if place is None or closing.reported:
        return
    group = place.stream.group
    holder = group.pending.get(place.entry_id)
    if holder is None or holder.consumer == RELEASED:
        if closing.awaited:
            partition.tell_stopped(closing.task_id, workflow_id, now_us)
        place.stream.remove(place.entry_id)
    else:
        group.marked.add(place.entry_id)
        if closing.awaited:
            group.awaited.add(place.entry_id)


def _put(partition: Partition, run: Run, dispatch: Dispatch, now_us: int) -> None:
    """Queue a task. One that is open already is sent again: its old entry goes in the same step."""
    message = dispatch.message
    old = run.open_tasks.get(message.task_id)
    if old is not None:
        old.stream.remove(old.entry_id)
    stream = partition.stream(message.agent, dispatch.urgent)
    entry_id = stream.put(TaskEntry(message=message, traceparent=dispatch.traceparent), now_us)
    run.open_tasks[message.task_id] = OpenTaskEntry(stream=stream, entry_id=entry_id)


def _schedule(partition: Partition, append: Append, state: WorkflowState) -> None:
    for name in append.timers_cleared:
        partition.timers.pop(name, None)
    partition.timers.update(append.timers_set)
    if state.terminal or append.expect_at is None:
        partition.expectations.pop(append.workflow_id, None)
    else:
        partition.expectations[append.workflow_id] = append.expect_at
