"""What holds for every run, whatever happened to it: assertions over a history, and over a state.

The property tests ask it of random runs, the simulation of runs on a store; a `Record` is an event in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tailrace.core.clock import to_us
from tailrace.core.codec import decode_command, encode_event
from tailrace.core.commands import CreateWorkflow, FireTimer
from tailrace.core.events import (
    TERMINAL,
    CompensationStarted,
    StageCompensated,
    StageCompleted,
    StageFailed,
    TaskDispatched,
    TaskFailed,
    TaskRedispatched,
    TaskStarted,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
)
from tailrace.core.ids import TaskId
from tailrace.core.testing.undoing import check_compensation
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Record, apply, step
from tailrace.core.workflow.policy import NEVER_US, expectation, timers
from tailrace.core.workflow.state import WorkflowState

#: How a stage of an ended run may have ended.
ENDED: Final = frozenset({"completed", "failed", "skipped", "cancelled"})


def check_next_step(pipeline: Pipeline, state: WorkflowState, expect_at: int | None) -> None:
    """An open run waits for a task, a planned attempt, handlers that stop or a person, and has a time when to ask.

    An ended one has none of these.
    """
    assert expect_at == expectation(pipeline, state), "the expectation is not the one that follows from the state"
    open_stages = [name for name, stage in state.stages.items() if stage.task is not None]
    if state.terminal:
        assert expect_at is None, "something is expected of a run that ended"
        assert timers(state) == {}, "timers run for a run that ended"
        assert open_stages == [], "tasks are open in a run that ended"
        return
    assert expect_at is not None, "nothing is expected of an open run"
    assert expect_at == NEVER_US or expect_at > state.created_at, "an open run has no next step"
    stopping = state.compensation is not None and any(told.awaited for told in state.compensation.told)
    waits = stopping or any(stage.retry_at is not None for stage in state.stages.values())
    assert open_stages or waits or state.status == "paused", "an open run has no next step"
    if state.status == "paused":
        assert (expect_at, timers(state)) == (NEVER_US, {}), "clocks run in a pause"
        return
    # What was lost in a pause is sent again when it ends: its entry is in no stream, so nobody else would.
    assert not any(stage.task and stage.task.lost for stage in state.stages.values()), "a lost task was not sent again"


def check_order(records: Sequence[Record]) -> None:
    """Versions are dense from 1 and times never fall."""
    assert [record.version for record in records] == list(range(1, len(records) + 1)), "versions have holes"
    assert [record.at for record in records] == sorted(record.at for record in records), "times fall"


def check_tasks(records: Sequence[Record]) -> set[str]:
    """A task id is dispatched once, never beside another task of its stage, and closed at most once; gives open ones."""
    attempts: Counter[str] = Counter()
    open_tasks: dict[str, str] = {}
    closed: set[str] = set()
    for record in records:
        match event := record.event:
            case TaskDispatched():
                assert event.stage not in open_tasks, f"{event.task_id} is dispatched beside {open_tasks[event.stage]}"
                assert event.attempt == attempts[event.stage] + 1, f"{event.task_id} does not count up"
                attempts[event.stage] = event.attempt
                open_tasks[event.stage] = event.task_id
            case TaskStarted() | TaskRedispatched():
                assert open_tasks.get(event.stage) == event.task_id, f"{event.task_id} is not open"
            case TaskFailed() | StageCompleted() | StageCompensated():
                assert open_tasks.pop(event.stage, None) == event.task_id, f"{event.task_id} is not open"
                assert event.task_id not in closed, f"{event.task_id} is closed twice"
                closed.add(event.task_id)
            case _ if type(event).__name__ in TERMINAL or isinstance(event, CompensationStarted):
                open_tasks.clear()
            case _:
                pass
    return set(open_tasks.values())


def check_needs(pipeline: Pipeline, records: Sequence[Record]) -> None:
    """Needs are met before a stage is dispatched, and nothing is dispatched in a pause or after the end."""
    state: WorkflowState | None = None
    for record in records:
        if isinstance(record.event, TaskDispatched) and state is not None:
            for need in pipeline.stages[record.event.stage].needs:
                assert state.stages[need].status == "completed", f"{record.event.task_id} begins without {need}"
            assert state.status in {"initiated", "running"}, f"{record.event.task_id} begins while {state.status}"
        if isinstance(record.event, TaskRedispatched):
            assert state is not None, "a run begins with a task that is sent again"
            assert state.status in {"initiated", "running"}, f"{record.event.task_id} comes back while {state.status}"
        state = apply(state, record)


def check_rounds(records: Sequence[Record]) -> None:
    """Within a round the end is the end and progress never falls; only a retry opens the next one."""
    state: WorkflowState | None = None
    for record in records:
        before, state = state, apply(state, record)
        if before is None:
            continue
        if isinstance(record.event, WorkflowRetried):
            assert before.terminal, "an open run is retried"
            assert state.round == before.round + 1, "rounds do not count up"
            continue
        assert state.round == before.round, f"{record.type} opens a round"
        assert state.progress_percentage >= before.progress_percentage, f"progress falls with {record.type}"
        if before.terminal:
            unchanged = (state.status, state.stages) == (before.status, before.stages)
            assert unchanged, f"{record.type} changes a run that ended"
            assert record.type not in TERMINAL, "a run ends twice"


def check_outcomes(records: Sequence[Record], state: WorkflowState) -> None:
    """In a round at most one event ends a stage, and every stage of an ended run has one outcome."""
    outcomes: Counter[str] = Counter()
    for record in records:
        event = record.event
        if isinstance(event, WorkflowRetried):
            outcomes.update({name: -outcomes[name] for name in event.reset})
        if isinstance(event, StageCompleted | StageFailed):
            outcomes[event.stage] += 1
            assert outcomes[event.stage] == 1, f"stage {event.stage} ends twice in a round"
    statuses = {stage.status for stage in state.stages.values()}
    if state.terminal:
        assert statuses <= ENDED, f"stages without outcome: {statuses}"
        assert (state.status == "completed") == (statuses == {"completed"}), f"{state.status} with {statuses}"
        assert state.completed_at is not None, "an ended run has no end"
        assert state.progress_percentage == 100 or statuses != {"completed"}, "all is completed below 100 %"
    else:
        assert statuses != {"completed"}, "an open run has nothing left to do"
        assert state.completed_at is None, "an open run has an end"
    ends_as = state.status if state.ending is None else state.ending.outcome
    assert ("failed" in statuses) == (ends_as == "failed"), f"{ends_as} with {statuses}"


def check_clocks(pipeline: Pipeline, records: Sequence[Record]) -> None:
    """No attempt times out before its time, and time in a pause does not count."""
    since: dict[str, int] = {}
    undoing: dict[str, bool] = {}
    paused_at: int | None = None
    for record in records:
        match event := record.event:
            case TaskDispatched() | TaskRedispatched() | TaskStarted():
                since[event.stage] = record.at
                if isinstance(event, TaskDispatched):
                    undoing[event.stage] = event.compensation
            case WorkflowPaused():
                paused_at = record.at
            case WorkflowResumed() if paused_at is not None:
                # What began before the pause has run for as long as it had then; what began in it begins now.
                since = {stage: record.at - max(0, paused_at - begun) for stage, begun in since.items()}
                paused_at = None
            case WorkflowRetried():
                paused_at = None
            case CompensationStarted(outcome="cancelled"):
                paused_at = None
            case TaskFailed() if record.command is not None and record.command.type == "FireTimer":
                timer = decode_command(record.command)
                assert isinstance(timer, FireTimer)
                stage = (pipeline.compensations if undoing[event.stage] else pipeline.stages)[event.stage]
                limit = stage.timeout_seconds if timer.kind == "attempt" else stage.start_timeout_seconds
                assert limit is not None, f"{event.task_id} has no limit that it could be over"
                assert timer.due_at - since[event.stage] >= to_us(limit), f"{event.task_id} times out before its time"
            case _:
                pass


def check_reproduced(pipeline: Pipeline, records: Sequence[Record], data: Sequence[bytes], traceparent: str) -> None:
    """Each command decided again, on the state before it and at its time, gives the same events, byte for byte."""
    state: WorkflowState | None = None
    position = 0
    while position < len(records):
        record = records[position].command
        assert record is not None, f"{records[position].type} does not follow from the command before it"
        command = decode_command(record)
        assert isinstance(command, CreateWorkflow) == (position == 0), f"{record.type} at {position}"
        state, decided = step(
            pipeline,
            state,
            command,
            now=record.now,
            command_id=record.id,
            actor=record.actor,
            traceparent=traceparent,
        )
        assert decided, f"{record.type} leads to nothing now"
        again = [encode_event(item.event, at=item.at, command=item.command) for item in decided]
        assert again == list(data[position : position + len(again)]), f"{record.type} leads to other events now"
        position += len(again)


def check_history(pipeline: Pipeline, records: Sequence[Record], data: Sequence[bytes], state: WorkflowState) -> None:
    """Everything of the above, of a run whose history leads to `state`; `data` are its events as they are stored."""
    check_order(records)
    open_tasks = check_tasks(records)
    held_open = {
        str(TaskId(workflow_id=state.workflow_id, stage=name, attempt=stage.task.attempt))
        for name, stage in state.stages.items()
        if stage.task is not None
    }
    assert open_tasks == held_open, f"open by the events: {open_tasks}, by the state: {held_open}"
    check_needs(pipeline, records)
    check_rounds(records)
    check_outcomes(records, state)
    check_clocks(pipeline, records)
    check_compensation(pipeline, records)
    check_reproduced(pipeline, records, data, state.traceparent)
