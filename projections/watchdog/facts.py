"""Facts about one run and its surroundings at one moment: plain values, as `collect` found them and the rules read them.

None means "could not be asked": a rule that needs it concludes nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tailrace.core.clock import SECOND
from tailrace.core.ids import TaskId
from tailrace.core.store.port import OpenEntry, ParkedEntry, PartitionFacts, Queue, WorkerBeat
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.state import WorkflowState

#: A worker lives while its last beat is younger than this: it beats once a second.
LIVE_US: Final = 3 * SECOND

#: A silence or a wait that is shorter heals itself: a lease runs out after 3 s, and claims are made each 0.5 s.
HEALS_US: Final = 5 * SECOND


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as a run's partition sees it. `workers` are those that beat within a minute, latest first.

    `told` counts, in all partitions, tasks that were closed while their workers held them and that these still hold; `told_us`
    says since how long there have been so many.
    """

    agent: str
    queue: Queue
    workers: tuple[WorkerBeat, ...]
    store_id: str
    now: int
    told: int = 0
    told_us: int = 0

    @property
    def live(self) -> tuple[WorkerBeat, ...]:
        """Workers that beat just now."""
        return tuple(beat for beat in self.workers if self.now - beat.at < LIVE_US)

    @property
    def fit(self) -> tuple[WorkerBeat, ...]:
        """Live workers that mean the same store as we do."""
        return tuple(beat for beat in self.live if beat.store_id in {"", self.store_id})

    @property
    def free_slots(self) -> int:
        """How many tasks the fit workers could begin at once."""
        return sum(max(0, beat.slots - beat.in_flight) for beat in self.fit)

    @property
    def slots(self) -> int:
        """How many tasks the fit workers could do at once."""
        return sum(beat.slots for beat in self.fit)

    @property
    def silent_us(self) -> int | None:
        """How long ago the latest beat was; None when nobody beat within a minute."""
        return None if not self.workers else max(0, self.now - self.workers[0].at)

    @property
    def open_breakers(self) -> dict[str, str]:
        """Dependencies that live workers have given up for now, with the breaker's state."""
        return {name: state for beat in self.live for name, state in beat.breakers.items() if state != "closed"}

    def beat_of(self, worker: str) -> WorkerBeat | None:
        """The last beat of a worker."""
        return next((beat for beat in self.workers if beat.name == worker), None)

    def is_live(self, worker: str) -> bool:
        """Whether a worker beat just now."""
        return any(beat.name == worker for beat in self.live)

    def evidence(self) -> dict[str, Any]:
        """What a person wants to see of an agent."""
        return {
            "agent": self.agent,
            "partition": self.queue.partition,
            "backlog": self.queue.backlog,
            "pending": self.queue.pending,
            "pending_by_worker": dict(self.queue.pending_by_worker),
            "has_group": self.queue.has_group,
            **({"told_to_stop": self.told} if self.told else {}),
            "workers": [
                {
                    "name": beat.name,
                    "host": beat.host,
                    "pid": beat.pid,
                    "build": beat.build,
                    "beat_age_seconds": round((self.now - beat.at) / SECOND, 1),
                    "slots": beat.slots,
                    "in_flight": beat.in_flight,
                }
                for beat in self.workers[:10]
            ],
        }


class WaitingReports(msgspec.Struct, frozen=True, kw_only=True):
    """Reports that wait in a partition: how many tasks' ones were read, the place of each, and whether that was all."""

    places: dict[str, int]
    complete: bool
    still_us: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the rules may know of a run.

    `entries` holds what was asked, by task id: a task that has not begun and was not asked about is taken for queued.
    `still_us` says since how long an entry has looked the same. `rejected` are reports of the run that could not be applied,
    latest first, as far as they are read. `hung` are agents that were found to take nothing.
    """

    now: int
    state: WorkflowState
    partition: int
    pipeline: Pipeline | None
    agents: dict[str, AgentFacts | None]
    orchestration: PartitionFacts | None
    reports: WaitingReports | None
    entries: dict[str, OpenEntry] | None
    still_us: dict[str, int]
    fullness: float | None
    rejected: tuple[ParkedEntry, ...] | None = ()
    hung: frozenset[str] = frozenset()
    unreachable: tuple[str, ...] = ()

    @property
    def has_owner(self) -> bool:
        """Whether an orchestrator holds the partition now."""
        return self.orchestration is not None and self.orchestration.owner_until > self.now

    def task_id(self, stage: str, attempt: int) -> str:
        """The id of an attempt's task."""
        return str(TaskId(workflow_id=self.state.workflow_id, stage=stage, attempt=attempt))
