"""The data behind the ports in memory: partitions, definitions and workers, on a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.partitioning import partition_of
from tailrace.core.store.memory.partition import Partition
from tailrace.core.store.port import Limits, WorkerBeat
from tailrace.core.testing.clock import ManualClock, Signal
from tailrace.core.workflow.definition import Pipeline

#: How long a worker that does not beat is remembered.
_WORKER_MEMORY_US: Final = to_us(60)


class MemoryData:
    """One namespace. All ports made for it see the same data; `fullness` may be set by a test."""

    def __init__(
        self,
        clock: ManualClock | None = None,
        *,
        partitions: int = 2,
        limits: Limits | None = None,
        instance_id: str = "memory",
    ) -> None:
        self.clock = clock or ManualClock()
        self.limits = limits or Limits()
        self.instance_id = instance_id
        self.epoch = f"{instance_id}-1"
        self.lease_us = to_us(self.limits.lease_seconds)
        self.owner_us = to_us(self.limits.owner_seconds)
        self.partitions = [Partition(number, self.limits) for number in range(partitions)]
        self.pipelines: dict[str, Pipeline] = {}
        self.versions: dict[str, list[str]] = {}
        self.agents: set[str] = set()
        self.fullness = 0.0
        self.changed = Signal()
        self.clock.on_move(self.changed.wake)
        self._workers: dict[tuple[str, str], WorkerBeat] = {}

    def partition_of(self, workflow_id: str) -> Partition:
        """Where a run lives."""
        return self.partitions[partition_of(workflow_id, len(self.partitions))]

    def join(self, agent: str) -> None:
        """Make an agent known, with its groups."""
        self.agents.add(agent)
        for partition in self.partitions:
            partition.make_groups(agent)

    def beat(self, beat: WorkerBeat) -> None:
        """Keep a worker's beat, at the store's time."""
        self.agents.add(beat.agent)
        self._workers[beat.agent, beat.name] = replace(beat, at=self.clock.now())

    def forget_worker(self, agent: str, worker: str) -> None:
        """Drop a worker that left."""
        self._workers.pop((agent, worker), None)

    def live_workers(self, agent: str) -> list[WorkerBeat]:
        """Workers of an agent that beat within a minute, latest first."""
        since = self.clock.now() - _WORKER_MEMORY_US
        beats = [beat for (of, _), beat in self._workers.items() if of == agent and beat.at >= since]
        return sorted(beats, key=lambda beat: beat.at, reverse=True)

    async def wait_until(self, ready: Callable[[], bool], block_seconds: float) -> None:
        """Return when `ready`, or when the clock has moved on by `block_seconds`."""
        until = self.clock.now() + to_us(block_seconds)
        while not ready() and self.clock.now() < until:
            await self.changed.wait()
