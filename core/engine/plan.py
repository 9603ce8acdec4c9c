"""From a decision to an append: what the events mean for streams, timers and expectations.

Everything is worked out from the state before and after, so that no transition can forget to clear its timer or to close
its task: there is no second place that knows what an event entails.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from tailrace.core.codec import encode
from tailrace.core.events import TaskDispatched, TaskRedispatched, WorkflowCreated
from tailrace.core.ids import child_traceparent, span_id, task_id_of, trace_id_of
from tailrace.core.store.inputs import Carried, carry, carry_on
from tailrace.core.store.port import Append, Closing, Dispatch, NewRecord, Ownership, TaskMessage, TimerRef
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.dispatching import work_of
from tailrace.core.workflow.history import DecidedEvent, gives_output, output_key
from tailrace.core.workflow.policy import expectation, timers
from tailrace.core.workflow.state import WorkflowState

#: Priorities that go to the stream that is read first.
URGENT: Final = frozenset({"high", "critical"})


def plan(
    pipeline: Pipeline,
    before: WorkflowState | None,
    after: WorkflowState,
    decided: Sequence[DecidedEvent],
    *,
    traceparents: Sequence[str],
    reported: Collection[str] = (),
    reports: Sequence[str] = (),
    timer: TimerRef | None = None,
    ownership: Ownership | None = None,
    rehydrate: bool = False,
    carried: Carried | None = None,
) -> Append:
    """The append for `decided`, which led from `before` to `after`.

    `traceparents` has one entry per decided event: the span that caused it. `reported` are ids of tasks closed by their own
    final report; `reports` are the report entries that this append removes. `carried` is what tasks could be given before.
    """
    old, new = timers(before), timers(after)
    records: list[NewRecord] = []
    outputs: dict[str, bytes] = {}
    dispatched: list[TaskDispatched | TaskRedispatched] = []
    created: bytes | None = None
    for item, parent in zip(decided, traceparents, strict=True):
        event = item.event
        records.append(NewRecord(event=event, at=item.at, command=item.command, traceparent=parent))
        # (Events have no subclasses, and `isinstance` takes three times as long to say no: it asks the metaclass.)
        if type(event) is TaskDispatched or type(event) is TaskRedispatched:
            if _is_open(after, event.stage, event.attempt):
                dispatched.append(event)
        elif gives_output(event):
            outputs[output_key(event.stage, event.attempt)] = encode(event.output)
        elif type(event) is WorkflowCreated:
            created = encode(event)
            carried = carry(event, {})
    carried = carry_on(carried, outputs)
    closed = [] if before is None else _closed(before, after)
    return Append(
        workflow_id=after.workflow_id,
        expected_version=0 if before is None else before.version,
        records=records,
        state=after if decided or rehydrate else None,
        created=created,
        outputs=outputs,
        dispatches=[_dispatch(pipeline, after, event, carried) for event in dispatched],
        closings=[_closing(pipeline, before, after, place, reported) for place in closed],
        timers_set={name: due for name, due in new.items() if old.get(name) != due},
        timers_cleared=[name for name in old if name not in new],
        expect_at=expectation(pipeline, after),
        reports=reports,
        timer=timer,
        ownership=ownership,
        rehydrate=rehydrate,
    )


def is_urgent(state: WorkflowState) -> bool:
    """Whether the run's tasks go to the stream that is read first."""
    return state.priority in URGENT


def _is_open(state: WorkflowState, stage: str, attempt: int) -> bool:
    task = state.stages[stage].task
    return task is not None and task.attempt == attempt


def _closed(before: WorkflowState, after: WorkflowState) -> list[tuple[str, int]]:
    """The tasks that were open and are not any more, by stage and attempt, in the order of their stages' names."""
    closed = [
        (name, stage.task.attempt)
        for name, stage in before.stages.items()
        if stage.task is not None and not _is_open(after, name, stage.task.attempt)
    ]
    return sorted(closed)


def _closing(
    pipeline: Pipeline,
    before: WorkflowState | None,
    after: WorkflowState,
    place: tuple[str, int],
    reported: Collection[str],
) -> Closing:
    assert before is not None
    stage, attempt = place
    task_id = task_id_of(after.workflow_id, stage, attempt)
    told = () if after.compensation is None else after.compensation.told
    return Closing(
        task_id=task_id,
        agent=work_of(pipeline, before, stage).agent,
        urgent=is_urgent(after),
        reported=task_id in reported,
        awaited=any((task.stage, task.attempt) == place for task in told),
    )


def _dispatch(
    pipeline: Pipeline, state: WorkflowState, event: TaskDispatched | TaskRedispatched, carried: Carried | None
) -> Dispatch:
    stage = work_of(pipeline, state, event.stage)
    trace = trace_id_of(state.traceparent)
    # The span of the sending is encoded from the log later; its id is derived, so the task can name it as parent now.
    parent = child_traceparent(state.traceparent, span_id(trace, "send", event.task_id)) if trace else ""
    inputs = [
        (name, output)
        for name in pipeline.ancestors[event.stage]
        if (output := state.stages[name].output_attempt) is not None
    ]
    undoes = state.compensation is not None and state.compensation.current == event.stage
    if undoes and state.compensation is not None:
        inputs += [place for place in state.compensation.done if place[0] == event.stage]
    message = TaskMessage(
        task_id=event.task_id,
        workflow_id=state.workflow_id,
        stage=event.stage,
        attempt=event.attempt,
        agent=stage.agent,
        action=stage.action or event.stage,
        timeout_seconds=stage.timeout_seconds,
        params=stage.params,
        round=state.round,
        inputs=tuple(inputs),
        compensation=undoes,
        given=None if carried is None else carried.given_to(inputs),
    )
    return Dispatch(message=message, urgent=is_urgent(state), traceparent=parent)
