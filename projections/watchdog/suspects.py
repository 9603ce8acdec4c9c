"""Runs that stand although their own expectation has not passed, or is gone: their worker fell silent or dies again and again,
their report waits too long or was refused, somebody acknowledged their task, what they depend on is down.

A stage may have hours to its limit. So a round looks at each agent and partition, which are few; runs are searched only where
one of these shows a fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, TypeAlias

from tailrace.core.clock import SECOND
from tailrace.core.errors import StoreCorrupt, Undecodable
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.state import StageState, WorkflowState
from tailrace.projections.watchdog.collect import Round
from tailrace.projections.watchdog.facts import HEALS_US, AgentFacts

#: How many open runs of a partition are searched for those of a silent worker, and how many are loaded at a time.
SEARCHED: Final = 20_000
LOADED: Final = 500

#: How many of those that are expected soonest are searched for one that waits for another try.
SOONEST: Final = 2_000

#: A silent worker's runs are searched again after so long; in between, what was found is looked at again.
SEARCH_AGAIN_US: Final = 2 * HEALS_US

#: For how long after a report was refused its run is looked at.
REFUSED_US: Final = 60 * SECOND

_Shows: TypeAlias = Callable[[StageState], bool]


class Suspects:
    """Finds such runs; remembers what it searched a short while ago, and what it found."""

    def __init__(self, store: WorkflowStore, *, most: int) -> None:
        self._store = store
        self._most = most
        self._searched: dict[tuple[str, int, str], tuple[int, list[str]]] = {}

    async def find(self, looking: Round, partition: int, agents: Sequence[str]) -> list[str]:
        """Ids of runs in a partition that are worth a look, at most `most`."""
        found = [workflow_id async for workflow_id in self._reporters(looking, partition)]
        found += [
            entry.workflow_id for entry in await looking.parked(partition) or () if self._is_new(looking, entry.at)
        ]
        oldest: list[str] = []
        for agent in agents:
            facts = await looking.agent(agent, partition)
            if facts is None:
                continue
            found += [*facts.queue.acknowledged, *facts.queue.repeated]
            oldest += facts.queue.oldest if facts.queue.oldest_age_us >= HEALS_US else ()
            for worker in _silent(looking, facts):
                found += await self._runs_of(looking, (agent, partition, worker))
            if facts.open_breakers:
                soonest = await self._store.open_workflows(partition, count=SOONEST)
                found += await self._runs_that(_waits_for_a_dependency, soonest)
        found += await looking.unexpected(partition, oldest)
        self._searched = {
            key: searched for key, searched in self._searched.items() if looking.now - searched[0] < SEARCH_AGAIN_US
        }
        here = [run for run in dict.fromkeys(found) if run and partition_of(run, self._store.partitions) == partition]
        return here[: self._most]

    @staticmethod
    def _is_new(looking: Round, at: int) -> bool:
        return looking.now - at < REFUSED_US

    async def _reporters(self, looking: Round, partition: int) -> AsyncIterator[str]:
        facts = await looking.orchestration(partition)
        if facts is not None and facts.reports and facts.oldest_report_age_us >= HEALS_US:
            for workflow_id in await looking.reporters(partition):
                yield workflow_id

    async def _runs_of(self, looking: Round, key: tuple[str, int, str]) -> list[str]:
        """Runs whose tasks a worker began; those with the latest expectation first, because theirs is far off."""
        if key not in self._searched:
            _, partition, worker = key
            ids = await self._store.open_workflows(partition, count=SEARCHED)
            ids.reverse()
            self._searched[key] = looking.now, await self._runs_that(lambda stage: _is_begun_by(worker, stage), ids)
        return self._searched[key][1]

    async def _runs_that(self, shows: _Shows, ids: Sequence[str]) -> list[str]:
        """Those of these runs that have such a stage and are not flagged, at most `most`."""
        found: list[str] = []
        for start in range(0, len(ids), LOADED):
            states = await self._load(ids[start : start + LOADED])
            found += [state.workflow_id for state in states if _stands(state, shows)]
            if len(found) >= self._most:
                break
        return found[: self._most]

    async def _load(self, ids: Sequence[str]) -> list[WorkflowState]:
        """The states of these runs; one that can't be read must not hide the others."""
        try:
            return [state for state in await self._store.load_states(ids) if state is not None]
        except (Undecodable, StoreCorrupt):
            if len(ids) == 1:
                return []
            middle = len(ids) // 2
            return [*await self._load(ids[:middle]), *await self._load(ids[middle:])]


def _silent(looking: Round, facts: AgentFacts) -> Iterator[str]:
    """Workers that hold tasks, or beat until a while ago, and have been silent for longer than a lease."""
    beats = {beat.name: beat.at for beat in facts.workers}
    for worker in dict.fromkeys([*facts.queue.pending_by_worker, *beats]):
        if not worker.startswith("~") and looking.now - beats.get(worker, 0) >= HEALS_US:
            yield worker


def _stands(state: WorkflowState, shows: _Shows) -> bool:
    return state.stall is None and any(shows(stage) for stage in state.stages.values())


def _is_begun_by(worker: str, stage: StageState) -> bool:
    return stage.task is not None and stage.task.worker == worker


def _waits_for_a_dependency(stage: StageState) -> bool:
    return stage.retry_at is not None and stage.error is not None and stage.error.reason == "dependency-open"
