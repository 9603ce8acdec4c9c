"""Sees each append and each report at the moment it takes effect, and holds it to what must be true at every moment.

What a whole history must look like is checked at its end; here is what would be mended, or forgotten, until then.
"""

from __future__ import annotations

from collections import Counter

from tailrace.core.commands import Report
from tailrace.core.ids import TaskId
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.queue import FINAL
from tailrace.core.store.port import Append, Appended
from tailrace.core.testing.invariants import check_next_step
from tailrace.core.workflow.policy import timers
from tailrace.core.workflow.state import WorkflowState


class Witness:
    """`violations` is what was seen and must not be; `outcomes` are final reports that the store took, in order.

    `happened` counts what not every history has. `gone` are timers that somebody removed behind the store's back, with the
    times they were due at.
    """

    def __init__(self, data: MemoryBackend) -> None:
        self.violations: list[str] = []
        self.outcomes: list[Report] = []
        self.happened: Counter[str] = Counter()
        self.gone: dict[str, int] = {}
        self._data = data

    def appended(self, append: Append, appended: Appended) -> None:
        """Look at a run right after an append."""
        if appended.outcome != "ok" or append.state is None:
            return
        self._count(append)
        try:
            self._check(append.state)
            self._check_timer(append)
            self._check_owner(append)
            self._check_undoing(append, append.state)
        except AssertionError as error:
            self.violations.append(f"{append.workflow_id} at version {append.state.version}: {error}")

    def reported(self, report: Report, *, accepted: bool) -> None:
        """Keep a final report that the store took."""
        if accepted and report.kind in FINAL:
            self.outcomes.append(report)

    def _count(self, append: Append) -> None:
        self.happened["run rehydrated"] += append.rehydrate
        for record in append.records:
            if record.command is not None and record.command.actor == "watchdog":
                self.happened[f"watchdog: {record.command.type}"] += 1
        for dispatch in append.dispatches:
            self.happened["inputs read" if dispatch.message.given is None else "inputs given along"] += 1

    def _check(self, state: WorkflowState) -> None:
        workflow_id = state.workflow_id
        partition = self._data.partition_of(workflow_id)
        run = partition.runs[workflow_id]
        pipeline = self._data.pipelines[state.definition]
        check_next_step(pipeline, state, partition.expectations.get(workflow_id))
        prefix = f"{workflow_id}|"
        running = {name: due for name, due in partition.timers.items() if name.startswith(prefix)}
        should = {name: due for name, due in timers(state).items() if name in running or self.gone.get(name) != due}
        assert running == should, f"timers {running} run, {should} should"
        wanted = {
            str(TaskId(workflow_id=workflow_id, stage=name, attempt=stage.task.attempt))
            for name, stage in state.stages.items()
            if stage.task is not None
        }
        assert set(run.open_tasks) == wanted, f"open in the store: {sorted(run.open_tasks)}, in the state: {wanted}"
        for stream in partition.streams.values():
            for entry_id, name in stream.names.items():
                place = run.open_tasks.get(name.task_id)
                if name.workflow_id != workflow_id or (place is not None and place.entry_id == entry_id):
                    continue
                assert entry_id in stream.group.marked, f"{name.task_id} is closed, and its entry {entry_id} is not"

    def _check_timer(self, append: Append) -> None:
        """What had come by the time a timer was due is decided before it."""
        if append.timer is None:
            return
        partition = self._data.partition_of(append.workflow_id)
        # What the append itself reports of tasks that it closed came with it, though its time begins with the millisecond.
        closed = {closing.task_id for closing in append.closings if closing.awaited}
        reports = ((entry_id, partition.read_report(entry_id, 0).report) for entry_id in partition.reports.entries)
        waiting = [entry_id for entry_id, report in reports if not _tells_of(report, closed)]
        waits = bool(waiting) and min(waiting)[0] * 1000 <= append.timer.due_at
        assert not waits, f"{append.timer.name} fires over a report that had come before it was due"

    def _check_undoing(self, append: Append, state: WorkflowState) -> None:
        """Nothing is undone while somebody still holds a task of this round that was closed, unless it was given up."""
        if not any(dispatch.message.compensation for dispatch in append.dispatches):
            return
        told = () if state.compensation is None else state.compensation.told
        given_up = {(task.stage, task.attempt) for task in told if not task.awaited}
        for stream in self._data.partition_of(append.workflow_id).streams.values():
            for entry_id in stream.group.awaited & stream.entries.keys():
                message = stream.entries[entry_id].message
                if (message.workflow_id, message.round) == (append.workflow_id, state.round):
                    place = (message.stage, message.attempt)
                    assert place in given_up, f"something is undone while {message.task_id} is in somebody's hands"

    def _check_owner(self, append: Append) -> None:
        """Reports and timers are applied by the one owner of their partition, while it is that."""
        owner = self._data.partition_of(append.workflow_id).owner
        if append.ownership is not None:
            named = (append.ownership.name, append.ownership.epoch)
            assert named == (owner.name, owner.epoch), f"{named} appends, and the owner is {owner}"
            assert self._data.clock.now() < owner.until_us, f"{owner} appends after its lease"


def _tells_of(report: Report | None, closed: set[str]) -> bool:
    return report is not None and report.kind == "stopped" and report.task_id in closed
