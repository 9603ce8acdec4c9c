"""A store on a real server with what a test of the watchdog starts around it: orchestrator, watchdogs, scripted workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tailrace.core.codec import DecodedEvent, decode_event
from tailrace.core.commands import Report
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.errors import TailraceError
from tailrace.core.events import WorkflowStalled
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import Delivery, WorkerBeat
from tailrace.core.testing import builders
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog import Diagnosis, Watchdog, WatchdogOptions, diagnose

PATIENCE_SECONDS = 30.0

#: Runs are overdue soon; what is not begun after 0.3 s is asked about.
QUICK = builders.pipeline(
    builders.stage("build", agent="builder", timeout_seconds=1.0, expect_start_seconds=0.3), name="quick"
)
PATIENT = builders.pipeline(builders.stage("build", agent="builder", expect_start_seconds=0.3), name="patient")

OPTIONS = WatchdogOptions(poll_seconds=0.1, suspects_seconds=0.3, settle_seconds=0.0, repairs=frozenset())


class World:
    """A store of two partitions with everything that a test may start around it."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.handler = CommandHandler(store)
        self._numbers = iter(range(1, 1000))

    async def start(self, pipeline: Pipeline) -> str:
        """A run of a pipeline."""
        await self.store.put_definition(pipeline.definition)
        workflow_id = f"run-{next(self._numbers)}"
        await self.handler.create(builders.create_workflow(pipeline, workflow_id), actor="test")
        return workflow_id

    async def state(self, workflow_id: str) -> WorkflowState:
        """The run as it is."""
        (state,) = await self.store.load_states([workflow_id])
        assert state is not None
        return state

    async def break_state(self, workflow_id: str) -> None:
        """Put something that is no state in the place of the run's."""
        key = self.store.keys.partition(partition_of(workflow_id, self.store.partitions)).workflow(workflow_id)
        await self.store.client.command("DEL", key)
        await self.store.client.command("SET", key, "x")

    async def cause(self, workflow_id: str) -> str | None:
        """The cause that the run is flagged with."""
        stall = (await self.state(workflow_id)).stall
        return None if stall is None else stall.cause

    async def until_flagged(self, workflow_id: str, cause: str) -> None:
        """Wait until the run is flagged with that cause."""

        async def flagged() -> bool:
            return await self.cause(workflow_id) == cause

        await until(flagged)

    async def until_explained(self, workflow_id: str, cause: str | None) -> Diagnosis:
        """Wait until `why` says so."""
        found: list[Diagnosis] = []

        async def explained() -> bool:
            found.append(await diagnose(self.store, workflow_id))
            return found[-1].cause == cause

        await until(explained)
        return found[-1]

    async def events(self, workflow_id: str) -> list[DecodedEvent]:
        """The run's events."""
        partition = partition_of(workflow_id, self.store.partitions)
        entries = await self.store.read_log(partition, "0-0", count=1000)
        return [decode_event(entry.type, entry.data) for entry in entries if entry.workflow_id == workflow_id]

    async def stalls(self, workflow_id: str) -> list[str]:
        """Causes of all stalls that were ever recorded."""
        return [
            found.event.cause for found in await self.events(workflow_id) if isinstance(found.event, WorkflowStalled)
        ]

    async def until_begun(self, workflow_id: str) -> None:
        """Wait until a worker's word that it began has been applied."""

        async def begun() -> bool:
            return (await self.state(workflow_id)).started

        await until(begun)

    async def until_completed(self, workflow_id: str) -> None:
        """Wait until the run has its result."""

        async def completed() -> bool:
            return (await self.state(workflow_id)).status == "completed"

        await until(completed)

    @asynccontextmanager
    async def orchestrated(self) -> AsyncIterator[None]:
        """With an orchestrator."""
        async with running(Orchestrator(self.store, f"o-{os.urandom(2).hex()}").run()):
            yield

    @asynccontextmanager
    async def watched(self, *, count: int = 1) -> AsyncIterator[None]:
        """With watchdogs."""
        async with running(*(Watchdog(self.store, self.handler, OPTIONS).run() for _ in range(count))):
            yield


class Worker:
    """A worker of `builder` that beats, renews, and finishes what it takes, unless it is told otherwise."""

    def __init__(self, store: RedisStore, name: str = "w1", *, slots: int = 1) -> None:
        self.queue = RedisTasks(store, "builder", name)
        self.name = name
        self.slots = slots
        self.store_id = ""
        self.held: dict[str, Delivery] = {}
        self.taking = True
        self.finishing = True
        self.renewing = True
        self.outcome: Callable[[str], Report] = lambda task_id: builders.completed(task_id, worker=name)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        """At work until the end of the block; then it is gone without a word, like one that was killed."""
        await self.queue.join()
        await self._beat()
        async with running(self._work(), self._keep()):
            yield self

    async def _keep(self) -> None:
        while True:
            await self._beat()
            if self.renewing:
                await self.queue.renew(list(self.held.values()))
            await asyncio.sleep(0.3)

    async def _beat(self) -> None:
        beat = WorkerBeat(
            agent="builder",
            name=self.name,
            at=0,
            build="b1",
            pid=7,
            host="here",
            slots=self.slots,
            in_flight=len(self.held),
            store_id=self.store_id,
        )
        await self.queue.beat(beat)

    async def _work(self) -> None:
        while True:
            free = self.slots - len(self.held)
            if self.taking and free:
                for delivery in await self._taken(free):
                    task_id = delivery.message.task_id
                    self.held[task_id] = delivery
                    await self.queue.report([(delivery, builders.started(task_id, worker=self.name), "")])
            if self.finishing:
                for task_id, delivery in list(self.held.items()):
                    await self.queue.report([(delivery, self.outcome(task_id), "")])
                    del self.held[task_id]
            await asyncio.sleep(0.05)

    async def _taken(self, free: int) -> list[Delivery]:
        """As a worker does: what the store can't do now is tried again."""
        try:
            return await self.queue.take(free, block_seconds=0.1)
        except TailraceError:
            return []


@asynccontextmanager
async def running(*serving: Awaitable[object]) -> AsyncIterator[None]:
    """Tasks in the background that end with the block, and break the test when they fail."""
    tasks = [asyncio.ensure_future(one) for one in serving]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition about the store, which nobody announces."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the condition is the store's
            await asyncio.sleep(0.05)
