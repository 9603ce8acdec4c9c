"""What a history must be, once it has ended: nothing lost, nothing twice, and every copy of it the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tailrace.agents.sdk import TaskInput
from tailrace.core.codec import decode_command, encode
from tailrace.core.commands import ApplyReport
from tailrace.core.events import TaskDispatched, WorkflowCreated
from tailrace.core.store.memory.queue import FINAL
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.invariants import check_history
from tailrace.core.workflow.history import Record, apply, fold, gives_output
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.batch import replay
from tests.support.audit import audit, record

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Actors of commands that nobody gave.
_MACHINES = frozenset({"report", "timer", "watchdog"})


async def check_world(world: World) -> list[str]:
    """Everything that is wrong with a world that has settled."""
    try:
        archive = dict(enumerate(world.database.events))
        histories = await audit(world.store, archive, world.forgotten())
    except AssertionError as error:
        return [f"the log is not what is stored: {error}"]
    records = {workflow_id: [record(entry) for entry in entries] for workflow_id, entries in histories.items()}
    found = list(world.people.surprises)
    for workflow_id, entries in histories.items():
        found += _check_run(world, records[workflow_id], entries)
    found += _check_people(world, records)
    found += _check_outcomes(world, records)
    found += _check_store(world)
    return found


def _check_run(world: World, records: Sequence[Record], entries: Sequence[RawEntry]) -> Iterator[str]:
    workflow_id = records[0].workflow_id
    snapshot = fold(records)
    assert snapshot is not None
    try:
        check_history(world.workload.pipeline, records, [entry.data for entry in entries], snapshot.state)
    except AssertionError as error:
        yield f"{workflow_id}: {error}"
    database, run = world.database, replay(workflow_id, entries)
    view = database.views.get(workflow_id)
    if view is None or encode(view) != encode(run.view()):
        yield f"{workflow_id}: the projected run is not the fold of its log"
    rows = {name: row for name, row in database.tasks.items() if row.workflow_id == workflow_id}
    if rows != run.tasks:
        yield f"{workflow_id}: the projected tasks are not those of its log"
    stalls = {version: row for (of, version), row in database.stalls.items() if of == workflow_id}
    if stalls != run.stalls:
        yield f"{workflow_id}: the projected stalls are not those of its log"
    outputs = {(stage, attempt): value for (of, stage, attempt), value in database.outputs.items() if of == workflow_id}
    if outputs != run.outputs:
        yield f"{workflow_id}: the projected outputs are not those of its log"


def _check_people(world: World, records: dict[str, list[Record]]) -> Iterator[str]:
    """What was acknowledged is in the log, and what somebody asked once is there at most once."""
    for workflow_id in world.people.created - records.keys():
        yield f"{workflow_id} was acknowledged and is not in the log"
    given = Counter(
        (item.command.actor, item.workflow_id)
        for history in records.values()
        for item in history
        if item.command is not None and item.command.actor not in _MACHINES
    )
    for (actor, workflow_id), times in given.items():
        if times > 1:
            yield f"the command of {actor} was carried out {times} times on {workflow_id}"
    for actor, (workflow_id, version) in world.people.acknowledged.items():
        if not given[actor, workflow_id]:
            yield f"the command of {actor} was acknowledged with version {version} of {workflow_id} and is not there"
    for actor, workflow_id in world.people.refused.items():
        if given[actor, workflow_id]:
            yield f"the command of {actor} on {workflow_id} was refused and is there"


def _check_outcomes(world: World, records: dict[str, list[Record]]) -> Iterator[str]:
    """Each outcome that the store took was decided once, and each output is one that a handler gave."""
    decided: Counter[tuple[str, str, int, str]] = Counter()
    for history in records.values():
        for item in history:
            if item.command is not None and item.command.type == "ApplyReport":
                command = decode_command(item.command)
                assert isinstance(command, ApplyReport)
                report = command.report
                if report.kind in FINAL:
                    decided[report.task_id, report.worker, report.delivery, report.kind] += 1
            event = item.event
            if gives_output(event) and event.output not in world.handlers.outputs.get(event.task_id, ()):
                yield f"no handler gave the output of {event.task_id}: {event.output}"
        yield from _check_read(world, history)
    for outcome, times in decided.items():
        if times > 1:
            yield f"the outcome {outcome} was decided {times} times"
    taken = {(report.task_id, report.worker, report.delivery, report.kind) for report in world.witness.outcomes}
    for outcome in sorted(taken - decided.keys()):
        # A closed task needs no word of its worker that it stopped.
        if outcome[3] != "cancelled":
            yield f"the outcome {outcome} was taken from its worker and never decided"
    for outcome in sorted(decided.keys() - taken):
        yield f"the outcome {outcome} was decided and never taken from a worker"


def _check_read(world: World, history: Sequence[Record]) -> Iterator[str]:
    """A task reads the request, and what the stages before it gave last; a compensation also what its stage gave last."""
    state: WorkflowState | None = None
    given: dict[tuple[str, int], Any] = {}
    created = history[0].event
    assert isinstance(created, WorkflowCreated)
    for item in history:
        event, state = item.event, apply(state, item)
        if gives_output(event):
            given[event.stage, event.attempt] = event.output
        if not isinstance(event, TaskDispatched):
            continue
        done = {} if state.compensation is None else dict(state.compensation.done)
        wanted = TaskInput(
            name=created.name,
            description=created.description,
            requirements=created.requirements,
            input=created.input,
            params=world.workload.pipeline.stages[event.stage].params,
            stages={
                name: given[name, attempt]
                for name in world.workload.pipeline.ancestors[event.stage]
                if (attempt := state.stages[name].output_attempt) is not None
            },
            output=given[event.stage, done[event.stage]] if event.compensation else None,
        )
        for seen in world.handlers.read.get(event.task_id, ()):
            if seen != wanted:
                yield f"{event.task_id} read {seen}, and should have read {wanted}"


def _check_store(world: World) -> Iterator[str]:
    """Nothing is put aside, and nothing runs on for what has ended."""
    yield from (f"parked by the projector: {parked}" for parked in world.database.parked)
    open_runs = {state.workflow_id for state in world.states() if not state.terminal}
    for partition in world.data.partitions:
        yield from (f"parked: {parked}: {reason}" for parked, reason, _ in partition.parked)
        for workflow_id in partition.expectations.keys() - open_runs:
            yield f"something is expected of {workflow_id}, which has ended"
        yield from (f"timer {name} is left" for name in partition.timers)
