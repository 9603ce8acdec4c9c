"""Commands: intents, in the imperative. The decider turns each into events, or refuses it.

The first event of each command is stored with the command itself, its actor and the `now` it was decided at, so that a
fold plus the commands reproduces every event.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tailrace.core.events import Failure


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all commands."""


class CreateWorkflow(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Start a run. `definition` is a content hash, `body_hash` tells whether a repeated request is the same one."""

    workflow_id: str
    definition: str
    type: str
    name: str
    description: str = ""
    requirements: str = ""
    priority: str = "medium"
    input: dict[str, Any] = {}
    labels: dict[str, str] = {}
    body_hash: str = ""


class CancelWorkflow(Command, frozen=True, kw_only=True, omit_defaults=True):
    """End the run as cancelled, after what its stages did is undone where they declare how."""

    reason: str = ""


class PauseWorkflow(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Dispatch nothing more, and stop the clocks of its stages."""

    reason: str = ""


class ResumeWorkflow(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Go on after a pause."""


class RetryWorkflow(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Open a new round: from `from_stage` on, or of all that did not complete; and of what was undone, or needs what was."""

    from_stage: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says about its task.

    `kind` is `started | progressed | completed | failed | cancelled`, or `poison | lost | stopped` from the store itself.
    `output` belongs to completed, `error` to failed and poison, `fraction` and `message` to progressed.
    """

    kind: str
    task_id: str
    worker: str = ""
    delivery: int = 1
    build: str = ""
    output: Any = None
    error: Failure | None = None
    fraction: float = 0.0
    message: str = ""


class ApplyReport(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Decide what a report means for the run."""

    report: Report


class FireTimer(Command, frozen=True, kw_only=True, omit_defaults=True):
    """A timer is due: `kind` is `start | attempt | retry`, set for one attempt of a stage, or `grace`, for one round."""

    kind: str
    stage: str
    attempt: int
    due_at: int


class FlagStall(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Record the watchdog's finding; appended only at the version that was observed. `scope`: see `WorkflowStalled`."""

    cause: str
    hop: str
    summary: str
    suggestion: str = ""
    evidence: dict[str, Any] = {}
    scope: str = ""


class RedispatchTask(Command, frozen=True, kw_only=True, omit_defaults=True):
    """Put the entry of an open task into its stream again, because it is provably gone."""

    task_id: str
    reason: str


COMMANDS: Final[dict[str, type[Command]]] = {
    cls.__name__: cls
    for cls in (
        CreateWorkflow,
        CancelWorkflow,
        PauseWorkflow,
        ResumeWorkflow,
        RetryWorkflow,
        ApplyReport,
        FireTimer,
        FlagStall,
        RedispatchTask,
    )
}
