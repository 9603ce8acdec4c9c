"""Gathers facts through the store's port, each look bounded in time.

One `Round` serves many runs: what they share (an agent's queue and workers, a partition's orchestrator) is asked once. What
can't be reached is named and stays unknown. After a store that did not answer nothing more is asked in the round.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from tailrace.core.errors import NotFound, StoreUnavailable, TailraceError
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import (
    OpenEntry,
    ParkedEntry,
    PartitionFacts,
    Queue,
    ReportEntry,
    WorkerBeat,
    WorkflowStore,
)
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.dispatching import work_of
from tailrace.core.workflow.state import OpenTask, WorkflowState
from tailrace.projections.watchdog.facts import AgentFacts, Facts, WaitingReports
from tailrace.projections.watchdog.motion import Motion

#: How long one look may take.
PROBE_SECONDS: Final = 2.0

#: How many waiting reports are read to find those of a run.
REPORTS_READ: Final = 256

#: How many parked reports are read, latest first, to find those of a run.
PARKED_READ: Final = 256

#: How many tasks of one agent and partition are looked up per round, of those that have not begun: to say how many stand
#: before a task, the store counts them.
ENTRIES_PER_QUEUE: Final = 5

T = TypeVar("T")


class Round:
    """The facts of one round. With `thorough` every open task is looked up, for one run that somebody asks about."""

    def __init__(
        self,
        store: WorkflowStore,
        now: int,
        motion: Motion,
        *,
        thorough: bool = False,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self.now = now
        self.unreachable: list[str] = []
        self.down = False
        self.hung: set[tuple[str, int]] = set()
        self._store = store
        self._motion = motion
        self._thorough = thorough
        self._probe_seconds = probe_seconds
        self._parked: dict[int, Sequence[ParkedEntry] | None] = {}
        self._queues: dict[str, Sequence[Queue] | None] = {}
        self._workers: dict[str, tuple[WorkerBeat, ...] | None] = {}
        self._partitions: dict[int, PartitionFacts | None] = {}
        self._reports: dict[int, tuple[Sequence[ReportEntry], WaitingReports] | None] = {}
        self._fullness: list[float | None] = []
        self._looked_up: Counter[tuple[str, int]] = Counter()

    async def facts(self, state: WorkflowState) -> Facts:
        """All that can be known of a run now."""
        partition = partition_of(state.workflow_id, self._store.partitions)
        own: list[str] = []
        pipeline = await self._probe(f"definition {state.definition}", self._store.pipeline(state.definition), own)
        names = (
            set()
            if pipeline is None
            else {
                work_of(pipeline, state, name).agent
                for name, stage in state.stages.items()
                if stage.status == "running" or name == state.undoing
            }
        )
        agents = {name: await self.agent(name, partition) for name in sorted(names)}
        orchestration = await self.orchestration(partition)
        # The entries before the reports: a final report removes its entry, so a task is seen in at least one of them.
        entries, still_us = await self._entries(state, pipeline, agents, partition, own)
        reports = await self._waiting(partition)
        return Facts(
            now=self.now,
            state=state,
            partition=partition,
            pipeline=pipeline,
            agents=agents,
            orchestration=orchestration,
            reports=None if reports is None else reports[1],
            entries=entries,
            still_us=still_us,
            fullness=await self.fullness(),
            rejected=await self._rejected(state.workflow_id, partition),
            hung=frozenset(agent for agent, place in self.hung if place == partition),
            unreachable=(*self.unreachable, *own),
        )

    async def agent(self, agent: str, partition: int) -> AgentFacts | None:
        """An agent's queue in one partition, and its workers."""
        if agent not in self._queues:
            self._queues[agent] = await self._probe(f"queues of agent {agent}", self._store.queues([agent]))
            beats = await self._probe(f"workers of agent {agent}", self._store.workers(agent))
            self._workers[agent] = None if beats is None else tuple(beats)
        queues, workers = self._queues[agent], self._workers[agent]
        queue = next((queue for queue in queues or () if queue.partition == partition), None)
        if queue is None or workers is None:
            return None
        told = sum(queue.told for queue in queues or ())
        return AgentFacts(
            agent=agent,
            queue=queue,
            workers=workers,
            store_id=self._store.instance_id,
            now=self.now,
            told=told,
            told_us=self._motion.still_us(f"told {agent}", told, self.now),
        )

    async def orchestration(self, partition: int) -> PartitionFacts | None:
        """What waits for a partition's orchestrator, and who that is."""
        if partition not in self._partitions:
            what = f"orchestrator of partition {partition}"
            self._partitions[partition] = await self._probe(what, self._store.partition_facts(partition))
        return self._partitions[partition]

    async def reporters(self, partition: int) -> list[str]:
        """The runs whose reports wait in a partition, oldest first, as far as they are read."""
        found = await self._waiting(partition)
        return (
            [] if found is None else list(dict.fromkeys(entry.workflow_id for entry in found[0] if entry.workflow_id))
        )

    async def parked(self, partition: int) -> Sequence[ParkedEntry] | None:
        """The latest reports of a partition that could not be applied; None when that could not be asked."""
        if partition not in self._parked:
            # (Asked after the reports: one that is parked meanwhile is seen in at least one of them.)
            looking = self._store.parked(partition, count=PARKED_READ)
            self._parked[partition] = await self._probe(f"parked reports of partition {partition}", looking)
        return self._parked[partition]

    async def _rejected(self, workflow_id: str, partition: int) -> tuple[ParkedEntry, ...] | None:
        found = await self.parked(partition)
        return None if found is None else tuple(entry for entry in found if entry.workflow_id == workflow_id)

    async def unexpected(self, partition: int, workflow_ids: Sequence[str]) -> Sequence[str]:
        """Those of these runs that nothing is expected of."""
        if not workflow_ids:
            return []
        looking = self._store.unexpected(partition, workflow_ids)
        return await self._probe(f"expectations of partition {partition}", looking) or []

    async def fullness(self) -> float | None:
        """Used memory as a share of the store's limit."""
        if not self._fullness:
            self._fullness.append(await self._probe("memory of the store", self._store.fullness()))
        return self._fullness[0]

    async def _waiting(self, partition: int) -> tuple[Sequence[ReportEntry], WaitingReports] | None:
        if partition not in self._reports:
            facts = await self.orchestration(partition)
            entries: Sequence[ReportEntry] | None = ()
            if facts is None or facts.reports:
                reading = self._store.read_reports(partition, count=REPORTS_READ, block_seconds=0)
                entries = await self._probe(f"reports of partition {partition}", reading)
            self._reports[partition] = None if entries is None else (entries, self._describe(partition, entries))
        return self._reports[partition]

    def _describe(self, partition: int, entries: Sequence[ReportEntry]) -> WaitingReports:
        oldest = entries[0].entry_id if entries else ""
        places: dict[str, int] = {}
        for place, entry in enumerate(entries):
            if entry.report is not None:
                places.setdefault(entry.report.task_id, place)
        return WaitingReports(
            places=places,
            complete=len(entries) < REPORTS_READ,
            still_us=self._motion.still_us(f"reports {partition}", oldest, self.now),
        )

    async def _entries(
        self,
        state: WorkflowState,
        pipeline: Pipeline | None,
        agents: dict[str, AgentFacts | None],
        partition: int,
        own: list[str],
    ) -> tuple[dict[str, OpenEntry] | None, dict[str, int]]:
        if pipeline is None or not any(
            self._is_worth_a_look(stage.task, agents.get(work_of(pipeline, state, name).agent), partition)
            for name, stage in state.stages.items()
            if stage.task is not None
        ):
            return {}, {}
        found = await self._probe(f"tasks of run {state.workflow_id}", self._store.open_entries(state.workflow_id), own)
        if found is None:
            return None, {}
        still_us = {
            entry.task_id: self._motion.still_us(
                f"task {entry.task_id}",
                (entry.entry_id, entry.state, entry.worker, entry.deliveries, entry.ahead),
                self.now,
            )
            for entry in found
        }
        return {entry.task_id: entry for entry in found}, still_us

    def _is_worth_a_look(self, task: OpenTask, agent: AgentFacts | None, partition: int) -> bool:
        """Whether the queue as a whole does not tell enough about a task."""
        if self._thorough or task.started_at is not None:
            return True
        if agent is None:
            return False
        queue = agent.queue
        # (Nothing is queued: then neither is this task.)
        if queue.backlog and not (queue.pending or queue.acknowledged or agent.free_slots):
            return False
        self._looked_up[agent.agent, partition] += 1
        return self._looked_up[agent.agent, partition] <= ENTRIES_PER_QUEUE

    async def _probe(self, what: str, looking: Awaitable[T], missing: list[str] | None = None) -> T | None:
        """What `looking` gives, or None: then `what` is among the `missing` (those of the round when not said)."""
        missing = self.unreachable if missing is None else missing
        if self.down:
            if asyncio.iscoroutine(looking):
                looking.close()
            missing.append(what)
            return None
        try:
            async with asyncio.timeout(self._probe_seconds):
                return await looking
        except (StoreUnavailable, TimeoutError):
            self.down = True
            missing.append(what)
        except NotFound as error:
            missing.append(f"{what}: {error}")
        except TailraceError as error:
            missing.append(f"{what}: {error.code}: {error}")
        return None
