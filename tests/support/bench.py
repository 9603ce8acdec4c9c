"""The parts of an engine around one namespace of a real server, each to be started, stopped and looked at by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.keys import PartitionKeys
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import Limits, OpenEntry, ReportEntry
from tailrace.core.testing.builders import create_workflow
from tailrace.core.testing.runner import Runner
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.state import WorkflowState
from tests.support.engine_process import make_worker
from tests.support.waiting import beside, eventually

Act = Callable[[TaskContext], Awaitable[Any]]


async def at_once(context: TaskContext) -> dict[str, str]:
    """An action that has its result already."""
    return {"task": context.task_id}


class Bench:
    """One namespace. What it opens ends with it."""

    def __init__(self, store: RedisStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.handler = CommandHandler(store)
        self._ids = count(1)
        self._ended = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def on(
        cls,
        url: str,
        folder: Path,
        *,
        partitions: int | None = 2,
        namespace: str = "",
        limits: Limits | None = None,
        **settings: Any,
    ) -> AsyncIterator[Bench]:
        """A namespace on the server at `url`; a fresh one unless it is named."""
        store = await RedisStore.open(
            RedisSettings(url=url, **settings),
            namespace=namespace or f"t{os.urandom(6).hex()}",
            partitions=partitions,
            limits=limits,
        )
        try:
            async with cls(store, folder) as made:
                yield made
        finally:
            await store.aclose()

    async def __aenter__(self) -> Self:
        await self._ended.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._ended.__aexit__(kind, error, trace)

    async def prepare(self, pipeline: Pipeline) -> Runner:
        """Keep a definition; gives a runner that carries out single steps of its runs."""
        runner = Runner(self.store, pipeline)
        await runner.prepare()
        return runner

    async def submit(self, pipeline: Pipeline, workflow_id: str = "", **fields: Any) -> str:
        """Start a run; gives its id."""
        workflow_id = workflow_id or f"run-{next(self._ids)}"
        await self.handler.create(create_workflow(pipeline, workflow_id, **fields), actor="test")
        return workflow_id

    def queue(self, name: str = "w1", agent: str = "agent") -> RedisTasks:
        """A worker's view of its tasks."""
        return RedisTasks(self.store, agent, name)

    @asynccontextmanager
    async def working(
        self, name: str = "w1", act: Act = at_once, *, files: bool = True, **options: Any
    ) -> AsyncIterator[asyncio.Task[Any]]:
        """A real worker of `agent` that does `act` for every task; it has joined."""
        agent = Agent("agent", files=files)

        @agent.action("*")
        async def run(context: TaskContext, input: TaskInput) -> Any:
            return await act(context)

        worker = make_worker(self.store, agent, name, self.folder, drain_seconds=0.0, **options)
        stop, joined = asyncio.Event(), asyncio.Event()
        async with beside(worker.run(stop, joined=joined)) as (task,):
            await joined.wait()
            yield task
            stop.set()
            await task

    def orchestrating(self, name: str = "o1") -> Any:
        """An orchestrator that runs with the block."""
        return beside(Orchestrator(self.store, name).run())

    def part(self, workflow_id: str) -> PartitionKeys:
        """The keys of a run's partition."""
        return self.store.keys.partition(partition_of(workflow_id, self.store.partitions))

    async def state(self, workflow_id: str) -> WorkflowState:
        """A run as it is stored."""
        (state,) = await self.store.load_states([workflow_id])
        assert state is not None, f"{workflow_id} is not there"
        return state

    async def wait_status(self, status: str, *workflow_ids: str, timeout: float = 20.0) -> None:
        """Until all these runs have that status."""

        async def reached() -> bool:
            states = await self.store.load_states(workflow_ids)
            return all(state is not None and state.status == status for state in states)

        await eventually(reached, timeout)

    async def open_entries(self, *workflow_ids: str) -> list[OpenEntry]:
        """Where the open tasks of these runs are."""
        return [entry for workflow_id in workflow_ids for entry in await self.store.open_entries(workflow_id)]

    async def reports(self) -> list[ReportEntry]:
        """Reports that wait, in all partitions."""
        found = [
            await self.store.read_reports(number, count=10_000, block_seconds=0)
            for number in range(self.store.partitions)
        ]
        return [entry for entries in found for entry in entries]

    async def calls_of(self, command: str) -> int:
        """How often the server has carried out a command, in scripts and outside."""
        stats = (await self.store.client.command("INFO", "commandstats")).decode()
        for line in stats.splitlines():
            if line.startswith(f"cmdstat_{command}:calls="):
                return int(line.partition("calls=")[2].partition(",")[0])
        return 0
