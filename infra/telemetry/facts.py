"""What is told of events that are no spans: as an event of their stage's span, or of the run's."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.core.events import (
    CancelGraceEnded,
    CompensationStarted,
    Event,
    Failure,
    StallCleared,
    TaskFailed,
    TaskLost,
    TaskProgressed,
    TaskRedispatched,
    TaskStarted,
    TaskStopped,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowStalled,
)
from tailrace.infra.telemetry.span import AttributeValue

Values = Mapping[str, AttributeValue | None]


def facts(event: Event) -> tuple[str, Values | None]:
    """The stage an event belongs to (empty: the run), and what is told of it; None for nothing."""
    match event:
        case TaskStarted():
            return event.stage, {
                "tailrace.task_id": event.task_id,
                "tailrace.worker": event.worker,
                "tailrace.delivery": event.delivery,
                "tailrace.build": event.build,
            }
        case TaskProgressed():
            return event.stage, {
                "tailrace.task_id": event.task_id,
                "tailrace.fraction": event.fraction,
                "tailrace.message": event.message,
            }
        case TaskFailed():
            return event.stage, {
                "tailrace.task_id": event.task_id,
                "tailrace.worker": event.worker,
                **error_facts(event.error),
            }
        case TaskRedispatched() | TaskLost():
            return event.stage, {"tailrace.task_id": event.task_id, "tailrace.reason": event.reason}
        case WorkflowStalled():
            return "", {
                "tailrace.cause": event.cause,
                "tailrace.hop": event.hop,
                "tailrace.summary": event.summary,
                "tailrace.suggestion": event.suggestion,
            }
        case StallCleared():
            return "", {"tailrace.cause": event.cause}
        case WorkflowPaused():
            return "", {"tailrace.reason": event.reason}
        case WorkflowResumed():
            return "", {}
        case _:
            return "", _facts_of_ending(event)


def _facts_of_ending(event: Event) -> Values | None:
    """What is told of a run that undoes what it did."""
    match event:
        case CompensationStarted():
            return {
                "tailrace.outcome": event.outcome,
                "tailrace.stages": ", ".join(event.stages),
                "tailrace.reason": event.reason,
                **error_facts(event.error),
            }
        case TaskStopped():
            return {
                "tailrace.task_id": event.task_id,
                "tailrace.worker": event.worker,
                "tailrace.completed": event.completed,
            }
        case CancelGraceEnded():
            return {"tailrace.tasks": ", ".join(event.tasks)}
        case _:
            return None


def error_facts(failure: Failure | None) -> Values:
    """A failure as attributes; nothing for None."""
    if failure is None:
        return {}
    return {"error.type": failure.reason, "tailrace.error.message": failure.message}


def event_name(event: Event) -> str:
    """`TaskProgressed` as `task.progressed`."""
    name = type(event).__name__
    return "".join(f".{char.lower()}" if char.isupper() and index else char.lower() for index, char in enumerate(name))
