"""Histories: events in their place. Folding one gives the snapshot that APPEND stored; deciding adds to one.

`step` is how a command becomes events with their times and their command, and `apply` is how these are folded again:
together they reproduce every event byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

import msgspec

from tailrace.core.codec import CommandRecord, encode, record_command
from tailrace.core.commands import Command
from tailrace.core.errors import Undecodable
from tailrace.core.events import Event, StageCompleted, TaskStopped, WorkflowCreated
from tailrace.core.workflow.decide import settle
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.evolve import create, evolve, remember
from tailrace.core.workflow.state import WorkflowState

#: Commands whose outcome needs no memory: their report or timer is removed by the append that decides them.
_REMOVED_BY_APPEND: Final = frozenset({"ApplyReport", "FireTimer", "FlagStall", "RedispatchTask"})


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event in its place in the log. `at` is in microseconds since the epoch; `seq` is dense within a partition."""

    partition: int
    entry_id: str
    seq: int
    workflow_id: str
    version: int
    type: str
    at: int
    event: Event
    command: CommandRecord | None
    traceparent: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is stored: its state, its first event, and the output of every attempt that gave one.

    `outputs` maps `<stage>:<attempt>` to the msgpack of the output.
    """

    state: WorkflowState
    created: WorkflowCreated
    outputs: Mapping[str, bytes]

    def stage_outputs(self) -> dict[str, Any]:
        """The output of each completed stage, in the order of stages."""
        return {
            name: msgspec.msgpack.decode(self.outputs[output_key(name, stage.output_attempt)])
            for name, stage in self.state.stages.items()
            if stage.output_attempt is not None
        }


class DecidedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is about to be appended; the first of each command carries the command."""

    event: Event
    at: int
    command: CommandRecord | None = None


def gives_output(event: Event) -> TypeGuard[StageCompleted | TaskStopped]:
    """Whether an event has an output to be stored: that of a stage, or of work that has only to be undone."""
    return type(event) is StageCompleted or (type(event) is TaskStopped and event.completed)


def output_key(stage: str, attempt: int) -> str:
    """How an attempt's output is named within a run."""
    return f"{stage}:{attempt}"


def step(
    pipeline: Pipeline,
    state: WorkflowState | None,
    command: Command,
    *,
    now: int,
    command_id: str,
    actor: str,
    traceparent: str = "",
) -> tuple[WorkflowState | None, list[DecidedEvent]]:
    """Decide a command and fold what it led to: the state after it, and the events with their times.

    `at` never goes below that of the event before. Raises what `decide` raises.
    """
    at = now if state is None else max(now, state.updated_at)
    course = settle(pipeline, state, command, at, traceparent)
    if not course.events:
        return state, []
    record = record_command(command, command_id=command_id, actor=actor, now=at)
    decided = [DecidedEvent(event=event, at=at) for event in course.events]
    decided[0] = DecidedEvent(event=course.events[0], at=at, command=record)
    after = course.state
    if record.type not in _REMOVED_BY_APPEND:
        after = remember(after, command_id, version=1 if state is None else state.version + 1)
    return after, decided


def apply(state: WorkflowState | None, record: Record) -> WorkflowState:
    """The state after one record of the log; raises `Undecodable` when the record can't follow this state."""
    version = 0 if state is None else state.version
    if record.version != version + 1:
        raise Undecodable(f"version {record.version} of {record.workflow_id} follows version {version}")
    return _apply(state, record.event, record.at, record.command, record.workflow_id, record.traceparent)


def fold(records: Iterable[Record]) -> Snapshot | None:
    """The snapshot of one workflow's whole history, in order of version; None for no records."""
    state: WorkflowState | None = None
    created: WorkflowCreated | None = None
    outputs: dict[str, bytes] = {}
    for record in records:
        state = apply(state, record)
        if isinstance(record.event, WorkflowCreated):
            created = record.event
        elif gives_output(record.event):
            outputs[output_key(record.event.stage, record.event.attempt)] = encode(record.event.output)
    if state is None or created is None:
        return None
    return Snapshot(state=state, created=created, outputs=outputs)


def _apply(
    state: WorkflowState | None,
    event: Event,
    at: int,
    command: CommandRecord | None,
    workflow_id: str,
    traceparent: str,
) -> WorkflowState:
    if state is None:
        if not isinstance(event, WorkflowCreated):
            raise Undecodable(f"the history of {workflow_id} begins with {type(event).__name__}")
        state = create(event, workflow_id=workflow_id, at=at, traceparent=traceparent)
    else:
        state = evolve(state, event, at)
    if command is not None and command.type not in _REMOVED_BY_APPEND:
        state = remember(state, command.id, version=state.version)
    return state
