"""What decisions are made of: the course that events take, the work of a stage's task, and the events that dispatch it."""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.core.clock import to_us
from tailrace.core.events import Event, TaskDispatched, TaskRedispatched
from tailrace.core.ids import task_id_of
from tailrace.core.workflow.definition import Pipeline, StageDefinition
from tailrace.core.workflow.evolve import evolve
from tailrace.core.workflow.state import OpenTask, WorkflowState


def work_of(pipeline: Pipeline, state: WorkflowState, stage: str) -> StageDefinition:
    """What the task of a stage, open or planned, does: the stage's work, or its compensation in the form of a stage."""
    if state.compensation is not None and state.compensation.current == stage:
        return pipeline.compensations[stage]
    return pipeline.stages[stage]


def dispatch(
    pipeline: Pipeline, state: WorkflowState, name: str, now: int, *, compensation: bool = False
) -> TaskDispatched:
    """The next attempt of a stage; a compensation is one as well, so that no id is used twice."""
    work = pipeline.compensations[name] if compensation else pipeline.stages[name]
    attempt = state.stages[name].attempt + 1
    return TaskDispatched(
        task_id=task_id_of(state.workflow_id, name, attempt),
        stage=name,
        attempt=attempt,
        agent=work.agent,
        action=work.action or name,
        start_due_at=_start_due_at(work, now),
        compensation=compensation,
    )


def dispatch_again(
    pipeline: Pipeline, state: WorkflowState, name: str, task: OpenTask, reason: str, now: int
) -> TaskRedispatched:
    """An open task whose entry is gone, under the same id."""
    work = work_of(pipeline, state, name)
    return TaskRedispatched(
        task_id=task_id_of(state.workflow_id, name, task.attempt),
        stage=name,
        attempt=task.attempt,
        agent=work.agent,
        reason=reason,
        start_due_at=_start_due_at(work, now),
    )


class Course:
    """The `events` that a decision has come to so far, and the `state` after them; each is folded once."""

    __slots__ = ("_at", "events", "state")

    def __init__(self, state: WorkflowState, at: int) -> None:
        self.state = state
        self.events: list[Event] = []
        self._at = at

    def take(self, *events: Event) -> None:
        """Go on with these."""
        for event in events:
            self.events.append(event)
            self.state = evolve(self.state, event, self._at)


def fold(state: WorkflowState, events: Iterable[Event], at: int) -> WorkflowState:
    """The state after events that were decided and not yet appended."""
    for event in events:
        state = evolve(state, event, at)
    return state


def _start_due_at(work: StageDefinition, now: int) -> int | None:
    return None if work.start_timeout_seconds is None else now + to_us(work.start_timeout_seconds)
