"""Runs that stand although their own expectation has not passed: their worker fell silent, their report waits too long, or
somebody acknowledged their task.

A stage may have hours to its limit. So a round looks at each agent and partition, which are few; runs are searched only where
one of these shows a fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from tailrace.core.errors import Undecodable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.projections.watchdog.collect import Round
from tailrace.projections.watchdog.facts import HEALS_US

#: How many open runs of a partition are searched for those of a silent worker, and how many are loaded at a time.
SEARCHED: Final = 20_000
LOADED: Final = 500

#: A silent worker's runs are searched again after so long.
SEARCH_AGAIN_US: Final = 2 * HEALS_US


class Suspects:
    """Finds such runs; remembers what it searched a short while ago."""

    def __init__(self, store: WorkflowStore, *, most: int) -> None:
        self._store = store
        self._most = most
        self._searched: dict[tuple[str, int, str], int] = {}

    async def find(self, looking: Round, partition: int, agents: Sequence[str]) -> list[str]:
        """Ids of runs in a partition that are worth a look, at most `most`."""
        found = [workflow_id async for workflow_id in self._reporters(looking, partition)]
        for agent in agents:
            facts = await looking.agent(agent, partition)
            found += [] if facts is None else facts.queue.acknowledged
            for worker, count in await self._silent(looking, agent, partition):
                self._searched[agent, partition, worker] = looking.now
                found += await self._runs_of(worker, partition, min(count, self._most))
        self._searched = {key: at for key, at in self._searched.items() if looking.now - at < SEARCH_AGAIN_US}
        return list(dict.fromkeys(found))[: self._most]

    async def _reporters(self, looking: Round, partition: int) -> AsyncIterator[str]:
        facts = await looking.orchestration(partition)
        if facts is not None and facts.reports and facts.oldest_report_age_us >= HEALS_US:
            for workflow_id in await looking.reporters(partition):
                if partition_of(workflow_id, self._store.partitions) == partition:
                    yield workflow_id

    async def _silent(self, looking: Round, agent: str, partition: int) -> list[tuple[str, int]]:
        """Workers that hold tasks and have not beaten for longer than a lease, with how many tasks they hold."""
        facts = await looking.agent(agent, partition)
        if facts is None:
            return []
        return [
            (worker, count)
            for worker, count in facts.queue.pending_by_worker.items()
            if not worker.startswith("~")
            and ((beat := facts.beat_of(worker)) is None or looking.now - beat.at >= HEALS_US)
            and (agent, partition, worker) not in self._searched
        ]

    async def _runs_of(self, worker: str, partition: int, count: int) -> list[str]:
        """Runs whose tasks a worker began; those with the latest expectation first, because theirs is far off."""
        ids = await self._store.open_workflows(partition, count=SEARCHED)
        ids.reverse()
        found: list[str] = []
        for start in range(0, len(ids), LOADED):
            try:
                states = await self._store.load_states(ids[start : start + LOADED])
            except Undecodable:
                continue
            found += [
                state.workflow_id
                for state in states
                if state is not None
                and state.stall is None
                and any(stage.task is not None and stage.task.worker == worker for stage in state.stages.values())
            ]
            if len(found) >= count:
                break
        return found
