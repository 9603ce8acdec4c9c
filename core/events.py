"""Events: facts about one workflow, in the past tense. They are the only truth; all else is folded from them.

Every event lives in the log under its class name. Fields may be added with a default; anything else needs a new schema
version and an upcaster (`core.upcasting`). Times are microseconds since the epoch by the store's clock.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something failed: `reason` is a stable kebab-case word, `message` is for people, `details` for programs."""

    reason: str
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] = {}


class PlannedStage(msgspec.Struct, frozen=True, array_like=True):
    """What the fold must know of a stage: its name and its weight in the progress of the run."""

    name: str
    weight: int = 1


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events."""


class WorkflowCreated(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A run of the definition with content hash `definition`; `body_hash` is the request it was made for."""

    definition: str
    type: str
    name: str
    stages: tuple[PlannedStage, ...]
    description: str = ""
    requirements: str = ""
    priority: str = "medium"
    input: dict[str, Any] = {}
    labels: dict[str, str] = {}
    body_hash: str = ""


class TaskDispatched(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A task was put into its agent's stream, in the same append. `start_due_at`: by when it has to be started.

    `compensation`: it is to undo what the stage did; the stage has completed before.
    """

    task_id: str
    stage: str
    attempt: int
    agent: str
    action: str
    start_due_at: int | None = None
    compensation: bool = False


class TaskRedispatched(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The entry of an open task was gone; it was put into the stream again under the same id, its time to start anew."""

    task_id: str
    stage: str
    attempt: int
    agent: str
    reason: str
    start_due_at: int | None = None


class TaskLost(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The entry of an open task was gone while the run was paused; it is put into the stream again with the resumption."""

    task_id: str
    stage: str
    attempt: int
    reason: str


class TaskStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A worker began with the task (again, when `delivery` is over 1). `due_at`: when the attempt times out."""

    task_id: str
    stage: str
    attempt: int
    worker: str
    delivery: int = 1
    build: str = ""
    due_at: int | None = None


class TaskProgressed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A worker said how far it is: `fraction` from 0 to 1."""

    task_id: str
    stage: str
    attempt: int
    fraction: float
    message: str = ""


class TaskFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt is over without a result. The next one is dispatched at `retry_at`; None means there is none.

    `told`: its handler may still be at work, and was told to stop (said of runs with compensation). Until it has, at most
    until `grace_until`, nothing more is undone.
    """

    task_id: str
    stage: str
    attempt: int
    error: Failure
    worker: str = ""
    retry_at: int | None = None
    told: bool = False
    grace_until: int | None = None


class TaskStopped(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The handler of a task that had been closed works no more: it stopped, it lost its lease, or it never began.

    `completed`: it had done its work before, which is undone like that of a stage that completed; `output` is what it gave.
    """

    task_id: str
    stage: str
    attempt: int
    worker: str = ""
    completed: bool = False
    output: Any = None


class StageCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The stage has its result: `output` of the task `task_id`. `undoable`: it declares a compensation."""

    stage: str
    task_id: str
    attempt: int
    worker: str = ""
    output: Any = None
    undoable: bool = False


class StageFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """No attempt of the stage is left in this round."""

    stage: str
    error: Failure


class CompensationStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run ends as `outcome`, `failed` or `cancelled`; before that what `stages` did is undone, one by one in this order.

    `error` and `stage` say why it failed, `reason` why it was cancelled. Open tasks were cancelled, and stages without outcome
    got theirs. Handlers that are told to stop are waited for until `grace_until`; None: there are none.
    """

    outcome: str
    stages: tuple[str, ...]
    error: Failure | None = None
    stage: str | None = None
    reason: str = ""
    grace_until: int | None = None


class CancelGraceEnded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The handlers of `tasks` have not stopped in time; what comes next does not wait for them any longer."""

    tasks: tuple[str, ...]


class StageCompensated(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What the stage did was undone, by the task `task_id`."""

    stage: str
    task_id: str
    attempt: int
    worker: str = ""


class CompensationFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What the stage did could not be undone, and no attempt is left; the others are undone nevertheless."""

    stage: str
    error: Failure


class WorkflowPaused(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Nothing is dispatched and the clocks of stages stand still until `WorkflowResumed`."""

    reason: str = ""


class WorkflowResumed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Dispatching goes on; open deadlines have moved by the length of the pause."""


class WorkflowRetried(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A new round begins: the stages in `reset` are pending again, what the others gave is kept."""

    round: int
    reset: tuple[str, ...]
    from_stage: str | None = None


class WorkflowCompleted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Every stage has its result."""


class WorkflowFailed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A stage failed; open tasks were cancelled, stages that had not begun are skipped.

    `not_compensated` are stages whose compensation failed.
    """

    error: Failure
    stage: str | None = None
    not_compensated: tuple[str, ...] = ()


class WorkflowCancelled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody cancelled the run; open tasks were cancelled, unfinished stages are cancelled.

    `not_compensated` are stages whose compensation failed.
    """

    reason: str = ""
    not_compensated: tuple[str, ...] = ()


class ReportIgnored(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A report came for a task that is closed or was never there; `reason` says which."""

    task_id: str
    report: str
    reason: str
    worker: str = ""


class WorkflowStalled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What had to happen did not: the `cause`, the `hop` it stands at, the evidence, and what to do.

    `scope` is what the fault belongs to, like `agent builder`: runs with the same cause and scope share one fault. Empty where
    it is the run's own.
    """

    cause: str
    hop: str
    summary: str
    suggestion: str = ""
    evidence: dict[str, Any] = {}
    scope: str = ""


class StallCleared(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The run that was stalled moved again."""

    cause: str


EVENTS: Final[dict[str, type[Event]]] = {
    cls.__name__: cls
    for cls in (
        WorkflowCreated,
        TaskDispatched,
        TaskRedispatched,
        TaskLost,
        TaskStarted,
        TaskProgressed,
        TaskFailed,
        TaskStopped,
        StageCompleted,
        StageFailed,
        CompensationStarted,
        CancelGraceEnded,
        StageCompensated,
        CompensationFailed,
        WorkflowPaused,
        WorkflowResumed,
        WorkflowRetried,
        WorkflowCompleted,
        WorkflowFailed,
        WorkflowCancelled,
        ReportIgnored,
        WorkflowStalled,
        StallCleared,
    )
}

TERMINAL: Final = frozenset({"WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled"})
