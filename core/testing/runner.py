"""Carries out commands on a store, one step at a time and by hand: load, decide, plan, append.

Each step can be looked at, held back or sent twice, which is what tests of a store are about.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, Final

from msgspec.structs import replace

from tailrace.core.commands import ApplyReport, Command, FireTimer
from tailrace.core.engine.plan import plan
from tailrace.core.errors import InvalidInput
from tailrace.core.partitioning import partition_of
from tailrace.core.store.inputs import Carried
from tailrace.core.store.port import Append, Appended, Ownership, ReportEntry, TimerRef, WorkflowStore
from tailrace.core.testing.builders import TRACEPARENT, create_workflow
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import step
from tailrace.core.workflow.policy import Timer
from tailrace.core.workflow.state import WorkflowState

#: Kinds of report that close their task.
CLOSING: Final = frozenset({"completed", "failed", "cancelled", "poison"})


class Runner:
    """Runs of one pipeline on one store."""

    def __init__(self, store: WorkflowStore, pipeline: Pipeline) -> None:
        self.store = store
        self.pipeline = pipeline
        self._numbers = count(1)

    async def prepare(self) -> None:
        """Keep the definition in the store, which makes its agents' groups."""
        await self.store.put_definition(self.pipeline.definition)

    async def decide(
        self,
        workflow_id: str,
        command: Command,
        *,
        reported: Collection[str] = (),
        reports: Sequence[str] = (),
        timer: TimerRef | None = None,
        ownership: Ownership | None = None,
        command_id: str = "",
        carried: Carried | None = None,
    ) -> Append:
        """The append that a command leads to now; it is not carried out."""
        (state,) = await self.store.load_states([workflow_id])
        return self.decide_on(
            state,
            command,
            now=await self.store.now(),
            reported=reported,
            reports=reports,
            timer=timer,
            ownership=ownership,
            command_id=command_id,
            carried=carried,
        )

    def decide_on(
        self, state: WorkflowState | None, command: Command, *, now: int, command_id: str = "", **cause: Any
    ) -> Append:
        """The append that a command leads to on a given state; `cause` goes to `plan`."""
        command_id = command_id or f"command-{next(self._numbers)}"
        after, decided = step(
            self.pipeline, state, command, now=now, command_id=command_id, actor="test", traceparent=TRACEPARENT
        )
        if after is None:
            raise InvalidInput("nothing to decide on")
        return plan(self.pipeline, state, after, decided, traceparents=[TRACEPARENT] * len(decided), **cause)

    async def append(self, append: Append) -> Appended:
        """Carry out one append."""
        (appended,) = await self.store.append([append])
        return appended

    async def carry_out(self, workflow_id: str, command: Command, **cause: Any) -> Appended:
        """Decide and append."""
        return await self.append(await self.decide(workflow_id, command, **cause))

    async def create(self, workflow_id: str, **fields: Any) -> WorkflowState:
        """Start a run and give its state."""
        appended = await self.carry_out(workflow_id, create_workflow(self.pipeline, workflow_id, **fields))
        assert appended.outcome == "ok", appended
        return await self.state(workflow_id)

    async def state(self, workflow_id: str) -> WorkflowState:
        """The state as it is stored."""
        (state,) = await self.store.load_states([workflow_id])
        assert state is not None, f"{workflow_id} is not in the store"
        return state

    async def reports(self, workflow_id: str) -> list[ReportEntry]:
        """Reports that wait in the run's partition."""
        partition = partition_of(workflow_id, self.store.partitions)
        entries = await self.store.read_reports(partition, count=100, block_seconds=0)
        # When it was read is no part of a report.
        return [replace(entry, read_at=0) for entry in entries]

    async def decide_report(
        self, entry: ReportEntry, *, ownership: Ownership | None = None, carried: Carried | None = None
    ) -> Append:
        """The append that applies a waiting report."""
        assert entry.report is not None, entry.problem
        reported = {entry.report.task_id} if entry.report.kind in CLOSING else set()
        return await self.decide(
            entry.workflow_id,
            ApplyReport(report=entry.report),
            reported=reported,
            reports=[entry.entry_id],
            ownership=ownership,
            carried=carried,
        )

    async def apply_reports(self, workflow_id: str) -> list[Appended]:
        """Apply what waits in the run's partition, one append each."""
        return [await self.append(await self.decide_report(entry)) for entry in await self.reports(workflow_id)]

    async def decide_timer(self, ref: TimerRef, *, ownership: Ownership | None = None) -> Append:
        """The append that fires a timer."""
        timer = Timer.parse(ref.name)
        command = FireTimer(kind=timer.kind, stage=timer.stage, attempt=timer.attempt, due_at=ref.due_at)
        return await self.decide(timer.workflow_id, command, timer=ref, ownership=ownership)
