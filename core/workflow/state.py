"""The state of one run: what deciding needs to know, and no more. Folded from events, stored as a snapshot.

Outputs and the request itself are not in it: they are written once, in fields of their own, and named by reference.
Arrays on the wire: fields are only ever added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import astuple

from tailrace.core.codec import encode
from tailrace.core.events import Failure

WorkflowStatus = Literal["initiated", "running", "paused", "completed", "failed", "cancelled"]
StageStatus = Literal["pending", "running", "completed", "failed", "skipped", "cancelled"]

#: Commands whose outcome is remembered, so that a caller who lost the reply can ask again.
REMEMBERED_COMMANDS = 8


class OpenTask(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A dispatched task without outcome. Due times stand still while the run is paused (see `WorkflowResumed`).

    `lost` says why its entry is in no stream any more, only while the run is paused: nothing is dispatched then.
    """

    attempt: int
    dispatched_at: int
    start_due_at: int | None = None
    started_at: int | None = None
    due_at: int | None = None
    worker: str = ""
    delivery: int = 0
    fraction: float = 0.0
    lost: str = ""


class StageState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One stage. `attempt` counts up for ever, `tries` within the round; `output_attempt` names the output it has.

    `worker` is who completed it; who works on it stands in its task.
    """

    status: StageStatus = "pending"
    weight: int = 1
    attempt: int = 0
    tries: int = 0
    task: OpenTask | None = None
    retry_at: int | None = None
    output_attempt: int | None = None
    error: Failure | None = None
    started_at: int | None = None
    finished_at: int | None = None
    worker: str = ""


class Stall(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The finding of the watchdog that stands: since when, why, and at which hop."""

    cause: str
    hop: str
    since: int
    summary: str
    suggestion: str = ""


class ToldTask(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A task that was closed while its handler may have been at work. `awaited`: nothing is undone until it stopped."""

    stage: str
    attempt: int
    awaited: bool = False


class Ending(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a run ends once all is undone: what the first event of its compensation said. `attempt` is the one that failed."""

    outcome: str
    error: Failure | None = None
    stage: str | None = None
    attempt: int = 0
    reason: str = ""


class Compensation(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What there is to undo, and how far that is; None for a run whose stages declare no compensation.

    `done` are the stages to undo, oldest first, each with the attempt whose output says what it did. `current` is the one
    that is being undone, `tries` counts the attempts at it. `grace_until` is not None while a told task is awaited.
    `compensated` and `failed` are of the present round.
    """

    done: tuple[tuple[str, int], ...] = ()
    told: tuple[ToldTask, ...] = ()
    ending: Ending | None = None
    grace_until: int | None = None
    current: str = ""
    tries: int = 0
    compensated: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        """Stages that are still to be undone, in that order: what completed last comes first."""
        over = {*self.compensated, *self.failed}
        return tuple(stage for stage, _ in reversed(self.done) if stage not in over)

    def status_of(self, stage: str) -> StageStatus | None:
        """How far the undoing of a stage is; None where nothing is, or is going, to be undone."""
        if stage in self.compensated:
            return "completed"
        if stage in self.failed:
            return "failed"
        if self.ending is None or stage not in self.left:
            return None
        return "running" if stage == self.current else "pending"


class WorkflowState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A run. `version` is the number of its events; `started` says whether any task ever began."""

    workflow_id: str
    version: int
    definition: str
    type: str
    priority: str
    status: WorkflowStatus
    stages: dict[str, StageState]
    created_at: int
    updated_at: int
    round: int = 1
    started: bool = False
    completed_at: int | None = None
    paused_at: int | None = None
    error: Failure | None = None
    stall: Stall | None = None
    commands: tuple[tuple[str, int], ...] = ()
    traceparent: str = ""
    compensation: Compensation | None = None

    @property
    def ending(self) -> Ending | None:
        """How the run is going to end; None while it is not decided, and once it has ended."""
        return None if self.compensation is None else self.compensation.ending

    @property
    def undoing(self) -> str:
        """The stage whose task, open or planned, is a compensation; empty when there is none."""
        return "" if self.compensation is None else self.compensation.current

    def compensation_of(self, stage: str) -> StageStatus | None:
        """How far the undoing of a stage is; None where nothing is, or is going, to be undone."""
        return None if self.compensation is None else self.compensation.status_of(stage)

    @property
    def terminal(self) -> bool:
        """True when only `retry` can move the run."""
        return self.status in {"completed", "failed", "cancelled"}

    @property
    def progress_percentage(self) -> int:
        """The finished weight of the stages, 0 to 100, rounded down."""
        total = sum(stage.weight for stage in self.stages.values())
        done = sum(stage.weight for stage in self.stages.values() if stage.status == "completed")
        return 100 * done // total if total else 0

    @property
    def current_stage(self) -> str | None:
        """The first stage that runs, else the one that failed, else the first that waits; None when all completed."""
        for wanted in ("running", "failed", "cancelled", "pending"):
            for name, stage in self.stages.items():
                if stage.status == wanted:
                    return name
        return None

    def version_of_command(self, command_id: str) -> int | None:
        """The version a remembered command led to; None when it never was appended, or too long ago."""
        return next((version for known, version in self.commands if known == command_id), None)


def encode_state(state: WorkflowState) -> bytes:
    """A state as it is stored. Arrays hold every field, so the last one is left out of a run that has no use for it."""
    return encode(state if state.compensation is not None else astuple(state)[:-1])
