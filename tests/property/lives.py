"""Runs on a store in memory, with the engine around it and everything that may happen to them, one step at a time.

What people, workers, timers and faults do is a method each; what can't happen now does nothing. After each step `check` holds
all runs to their invariants. Nothing here waits: the clock is turned, and calls that would block are not made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from tailrace.core.codec import decode
from tailrace.core.commands import Command, FlagStall, RedispatchTask, Report, RetryWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.errors import AlreadyExists, CommandRefused
from tailrace.core.events import WorkflowCreated
from tailrace.core.ids import TaskId
from tailrace.core.store.inputs import carry, input_of
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.partition import Run
from tailrace.core.store.memory.queue import FINAL, MemoryQueue
from tailrace.core.store.memory.streams import read_id, spell
from tailrace.core.store.port import Delivery, Limits, ReportEntry, TaskMessage, TimerRef
from tailrace.core.store.retention import EndedRun
from tailrace.core.testing.builders import create_workflow
from tailrace.core.testing.invariants import check_history, check_next_step
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Record, Snapshot, fold, output_key
from tailrace.core.workflow.policy import Timer, timers
from tailrace.core.workflow.state import WorkflowState, encode_state
from tests.support.audit import record

T = TypeVar("T")

#: Only a clock that is set back counts as an outage; the orchestrator stays.
LIMITS: Final = Limits(lease_seconds=3.0, pulse_seconds=1e6, owner_seconds=1e9, delivery_limit=3)
WORKERS: Final = ("w1", "w2")
AGENTS: Final = ("alpha", "beta")
#: As the views of two orchestrators of which one was replaced, or of one before and after a crash: each has a memory of its own.
VIEWS: Final = 2


class Lives:
    """A few runs of one pipeline, and what happens to them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.loop = asyncio.new_event_loop()
        self.pipeline = pipeline
        self.backend = MemoryBackend(partitions=1, limits=LIMITS)
        self.partition = self.backend.partitions[0]
        self.store = self.backend.store()
        self.handler = CommandHandler(self.store, archived=self._archived)
        self.queues = {(agent, name): self.backend.queue(agent, name) for agent in AGENTS for name in WORKERS}
        self.held: list[tuple[str, Delivery]] = []
        self.said: list[tuple[str, Delivery, Report]] = []
        self.known: list[str] = ["run-1:s0:9", "run-9:s0:1"]
        self.fired: list[TimerRef] = []
        self.batch: list[ReportEntry] = []
        self.records: dict[str, list[Record]] = {}
        self.data: dict[str, list[bytes]] = {}
        self.read = "0-0"
        self.happened: Counter[str] = Counter()
        self.run(self.store.put_definition(pipeline.definition))
        ownership = self.run(self.store.acquire(0, "o1", None))
        assert ownership is not None
        self.ownership = ownership
        self.views = [PartitionWork(self.store, ownership) for _ in range(VIEWS)]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Carry out one call of a port."""
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        """End it."""
        self.loop.close()

    # People

    def create(self, number: int, priority: str) -> None:
        """A request to start a run; the same id again gives the run that is there, or is refused for another body."""
        command = create_workflow(self.pipeline, f"run-{number}", priority=priority, body_hash=priority)
        there = self._known(command.workflow_id)
        seq = self.partition.seq
        try:
            outcome = self.run(self.handler.create(command, actor="person"))
        except AlreadyExists:
            assert there is not None
            assert there.priority != priority
        else:
            assert outcome.replayed == (there is not None)
        assert there is None or self.partition.seq == seq

    def ask(self, which: int, command: Command) -> None:
        """What a person asks of a run. What its state forbids changes nothing."""
        state = self._some(which)
        if state is None:
            return
        seq = self.partition.seq
        try:
            after = self.run(self.handler.execute(state.workflow_id, command, actor="person")).state
        except CommandRefused:
            assert self.partition.seq == seq
        else:
            assert after.version >= state.version

    def retry(self, which: int, stage: int | None) -> None:
        """A new round, of what is left or from a stage on."""
        names = list(self.pipeline.stages)
        self.ask(which, RetryWorkflow(from_stage=None if stage is None else names[stage % len(names)]))

    def flag(self, which: int, cause: str) -> None:
        """The watchdog's word."""
        self.ask(which, FlagStall(cause=cause, hop="tasks", summary="test"))

    def redispatch(self, which: int) -> None:
        """Somebody has an open task sent again: one whose entry is gone, and which nobody has reported on."""
        state = self._some(which)
        if state is None:
            return
        waiting = {entry.report.task_id for entry in self.run(self._reports(1000)) if entry.report}
        gone = [
            task_id
            for task_id, place in self.partition.runs[state.workflow_id].open_tasks.items()
            if place.entry_id not in place.stream.entries and task_id not in waiting
        ]
        if gone:
            self.ask(which, RedispatchTask(task_id=gone[which % len(gone)], reason="test"))

    def expire(self, which: int, behind: int) -> None:
        """The run is forgotten, if the archive has the end of it; from an older version nobody concludes that it has."""
        ids = sorted(self.partition.runs)
        if not ids:
            return
        workflow_id = ids[which % len(ids)]
        run, seq = self.partition.runs[workflow_id], self.partition.seq
        version = max(1, len(self.records[workflow_id]) - behind)
        ended = self._folded(self.records[workflow_id]).terminal and not run.is_tombstone and version == run.version
        named = EndedRun(workflow_id=workflow_id, version=version)
        assert self.run(self.store.expire_runs(0, [named])) == ended, "another run was forgotten than one that ended"
        assert self.partition.seq == seq
        assert (self._state(workflow_id) is None) == self.partition.runs[workflow_id].is_tombstone
        self.happened["expired"] += ended

    # Workers

    def take(self, agent: str, name: str, free: int) -> None:
        """A worker asks for tasks."""
        if self.queues[agent, name]._has_tasks():
            self._receive(name, self.run(self.queues[agent, name].take(free, block_seconds=0)))

    def claim(self, agent: str, name: str, free: int) -> None:
        """A worker looks for leases that ran out."""
        self._receive(name, self.run(self.queues[agent, name].claim(free)))

    def renew(self, agent: str, name: str) -> None:
        """A worker renews what it thinks it has."""
        held = [delivery for owner, delivery in self.held if owner == name and delivery.message.agent == agent]
        self.run(self.queues[agent, name].renew(held))

    def release(self, which: int) -> None:
        """A worker hands a task back."""
        if self.held:
            name, delivery = self.held.pop(which % len(self.held))
            self.run(self._queue(name, delivery).release([delivery]))

    def say(self, which: int, kind: str, **facts: Any) -> None:
        """A worker reports on a task that it has, or had: it counts exactly when it is the holder."""
        if not self.held:
            return
        index = which % len(self.held)
        name, delivery = self.held[index]
        report = Report(kind=kind, task_id=delivery.message.task_id, worker=name, delivery=delivery.delivery, **facts)
        self._send(name, delivery, report)
        if kind in FINAL:
            del self.held[index]

    def say_again(self, which: int) -> None:
        """A report is sent a second time, because its reply was lost."""
        if self.said:
            self._send(*self.said[which % len(self.said)])

    def stray(self, which: int, kind: str, task: int, **facts: Any) -> None:
        """A report that no fence has seen: about a task that is long over, of another run, of none.

        One that ends a task or calls it lost comes together with the removal of its entry: so not about tasks that are open.
        """
        state = self._some(which)
        task_id = self.known[task % len(self.known)]
        removes = kind in FINAL or kind in {"poison", "lost"}
        if state is not None and not (removes and task_id in self._open_tasks(state)):
            report = Report(kind=kind, task_id=task_id, worker="stranger", **facts)
            self.partition.add_report(report, state.workflow_id, "", self.backend.clock.now())

    def drop(self, which: int) -> None:
        """The entry of an open task disappears."""
        state = self._some(which)
        if state is None:
            return
        places = list(self.partition.runs[state.workflow_id].open_tasks.values())
        if places:
            place = places[which % len(places)]
            place.stream.delete(place.entry_id)

    # The engine

    def apply(self, view: int, count: int, *, reverse: bool) -> None:
        """An orchestrator applies what waits, as it read it or in another order."""
        entries = self.run(self._reports(count))
        if reverse:
            entries.reverse()
        if entries:
            self.batch = entries
            self.run(self.views[view].apply_reports(entries))

    def drain(self, view: int) -> None:
        """What an orchestrator remembers may be old: then it knows better after one try, and nothing waits after the next."""
        for _ in range(2):
            self.apply(view, 1000, reverse=False)
        assert not self.partition.reports.entries, "a report waits for ever"

    def apply_again(self, view: int) -> None:
        """Another one read the same reports: of those that are gone nothing takes effect."""
        gone = [entry for entry in self.batch if read_id(entry.entry_id) not in self.partition.reports.entries]
        if gone:
            seq = self.partition.seq
            assert self.run(self.views[view].apply_reports(gone)) == 0
            assert self.partition.seq == seq, "a report took effect twice"

    def fire(self, view: int) -> None:
        """An orchestrator fires what is due."""
        due, _ = self.run(self.store.due_timers(0, count=10))
        self.fired += due
        self.run(self.views[view].fire_timers(due))

    def fire_again(self, view: int, which: int) -> None:
        """A timer that is gone, or was set anew, is fired by somebody who read it before."""
        if not self.fired:
            return
        ref = self.fired[which % len(self.fired)]
        if self.partition.timers.get(ref.name) != ref.due_at:
            seq = self.partition.seq
            self.run(self.views[view].fire_timers([ref]))
            assert self.partition.seq == seq, "a timer took effect twice"

    def forget(self, view: int) -> None:
        """An orchestrator is another process from now on."""
        self.views[view] = PartitionWork(self.store, self.ownership)

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, or is set back."""
        self.backend.clock.advance(seconds)

    def pass_to_next_timer(self) -> None:
        """The clock goes on to what is due next."""
        if self.partition.timers:
            left = min(self.partition.timers.values()) - self.backend.clock.now()
            self.backend.clock.advance(max(left, 0) / 1_000_000)

    # What holds

    def check(self) -> None:
        """All that is true of runs, and of what the store has of them."""
        changed = self._read_log()
        for workflow_id in changed:
            self._check_run(workflow_id)
        self._check_streams()
        running = {Timer.parse(name).workflow_id for name in self.partition.timers}
        assert running <= self.partition.runs.keys()
        assert self.partition.expectations.keys() == {
            workflow_id for workflow_id, records in self.records.items() if not self._folded(records).terminal
        }

    def _read_log(self) -> set[str]:
        changed = set()
        for entry in self.run(self.store.read_log(0, self.read, count=1000)) if self._has_more() else ():
            self.read = entry.entry_id
            self.records.setdefault(entry.workflow_id, []).append(record(entry))
            self.data.setdefault(entry.workflow_id, []).append(entry.data)
            self.happened[entry.type] += 1
            changed.add(entry.workflow_id)
        return changed

    def _has_more(self) -> bool:
        return spell(self.partition.log.last) != self.read and len(self.partition.log) > 0

    def _check_run(self, workflow_id: str) -> None:
        records, run = self.records[workflow_id], self.partition.runs[workflow_id]
        snapshot = fold(records)
        assert snapshot is not None
        state = snapshot.state
        assert encode_state(state) == run.state, "what is stored is not the fold of its log"
        assert run.version == len(records)
        assert snapshot.outputs == run.outputs
        check_history(self.pipeline, records, self.data[workflow_id], state)
        check_next_step(self.pipeline, state, self.partition.expectations.get(workflow_id))
        stored = {
            name: due for name, due in self.partition.timers.items() if Timer.parse(name).workflow_id == workflow_id
        }
        assert stored == timers(state), "the timers are not those that follow from the state"
        # (A task that was lost in a pause is open, and is sent again when it ends.)
        assert sorted(run.open_tasks) == sorted(self._open_tasks(state))
        for place in run.open_tasks.values():
            if place.entry_id in place.stream.entries:
                self._check_inputs(place.stream.entries[place.entry_id].message, state, run)
        self.known += [task_id for task_id in run.open_tasks if task_id not in self.known]

    def _check_inputs(self, message: TaskMessage, state: WorkflowState, run: Run) -> None:
        """A task reads what the stages gave that its own needs, and what goes with it is the same."""
        wanted = {
            name: attempt
            for name in self.pipeline.ancestors[message.stage]
            if (attempt := state.stages[name].output_attempt) is not None
        }
        if message.compensation:
            assert state.compensation is not None
            wanted[message.stage] = dict(state.compensation.done)[message.stage]
        else:
            needed = self.pipeline.ancestors[message.stage]
            assert all(state.stages[name].status == "completed" for name in needed), f"{message.task_id} came too soon"
        assert dict(message.inputs) == wanted, f"{message.task_id} reads {message.inputs}, and should {wanted}"
        outputs = [run.outputs[output_key(stage, attempt)] for stage, attempt in message.inputs]
        request = decode(run.created, WorkflowCreated)
        given = carry(request, {})
        assert given is not None, "the request of these runs is small"
        expected = input_of(message, request, outputs)
        if message.given is not None:
            self.happened["given"] += 1
            assert input_of(message, message.given, message.given.outputs) == expected, f"{message.task_id} is given"
        elif carry(request, run.outputs) is not None:
            # (What a run has given only ever grows: it was as little when the task was dispatched.)
            raise AssertionError(f"{message.task_id} is not given what is small enough")
        else:
            self.happened["not given"] += 1
        assert self.run(self.queues[message.agent, WORKERS[0]].inputs([message])) == [expected]

    def _check_streams(self) -> None:
        """Nothing is in a stream but open tasks, and closed ones that their holder has still to let go."""
        open_entries = {
            (place.stream.name, place.entry_id)
            for run in self.partition.runs.values()
            for place in run.open_tasks.values()
        }
        for stream in self.partition.streams.values():
            for entry_id in stream.entries:
                held = entry_id in stream.group.pending and entry_id in stream.group.marked
                assert held or (stream.name, entry_id) in open_entries, f"{stream.name} keeps a closed task"

    # Parts

    def _folded(self, records: Sequence[Record]) -> WorkflowState:
        snapshot = fold(records)
        assert snapshot is not None
        return snapshot.state

    def _state(self, workflow_id: str) -> WorkflowState | None:
        (state,) = self.run(self.store.load_states([workflow_id]))
        return state

    def _some(self, which: int) -> WorkflowState | None:
        ids = sorted(self.partition.runs)
        return self._known(ids[which % len(ids)]) if ids else None

    def _known(self, workflow_id: str) -> WorkflowState | None:
        """A run as people know it: also one that the store has forgotten."""
        state = self._state(workflow_id)
        if state is None and workflow_id in self.records:
            return self._folded(self.records[workflow_id])
        return state

    async def _archived(self, workflow_id: str) -> Snapshot | None:
        records = self.records.get(workflow_id)
        return None if records is None else fold(records)

    def _open_tasks(self, state: WorkflowState | None) -> list[str]:
        if state is None:
            return []
        return [
            str(TaskId(workflow_id=state.workflow_id, stage=name, attempt=stage.task.attempt))
            for name, stage in state.stages.items()
            if stage.task is not None
        ]

    def _queue(self, name: str, delivery: Delivery) -> MemoryQueue:
        return self.queues[delivery.message.agent, name]

    def _receive(self, name: str, deliveries: Sequence[Delivery]) -> None:
        self.held += [(name, delivery) for delivery in deliveries]

    def _send(self, name: str, delivery: Delivery, report: Report) -> None:
        stream = self.partition.stream(delivery.message.agent, delivery.stream.endswith(":high"))
        holds = stream.is_held(read_id(delivery.entry_id), name, delivery.delivery)
        waiting = len(self.partition.reports)
        (counted,) = self.run(self._queue(name, delivery).report([(delivery, report, "")]))
        assert counted is holds, "the fence let somebody pass, or stopped the holder"
        assert len(self.partition.reports) - waiting == holds
        self.said.append((name, delivery, report))

    async def _reports(self, count: int) -> list[ReportEntry]:
        if not len(self.partition.reports):
            return []
        return await self.store.read_reports(0, count=count, block_seconds=0)
