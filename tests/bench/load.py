"""A client that loads a running deployment: it keeps so many runs of a no-op pipeline open, until so many are complete.

It submits through the command handler, as the gateway does, and learns what became of the runs from the store. A drive ends
when the read models show all of its runs as completed, too. As a process of its own it speaks the contract of the peers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

from uvloop import new_event_loop

import tailrace
from tailrace.core.commands import CreateWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.ids import new_workflow_id
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.workflow.definition import Definition, Pipeline
from tailrace.infra.config import Settings
from tailrace.projections.queries import Queries
from tests.bench.noop import last_stage, line
from tests.bench.peers.contract import STEPS, check, give, measure, read_task

#: How often the store is asked how many runs are open, and the read models how far they are; in seconds.
LOOK_SECONDS: Final = 0.005
LOOK_AT_ROWS_SECONDS: Final = 0.02
#: Nothing completed in all that time: the bench is stuck.
PATIENCE_SECONDS: Final = 60.0
#: How many runs are started at once where nobody waits for one of them.
SUBMIT_BATCH: Final = 256


class Load:
    """Runs of one definition, submitted and waited for, beside others that only stay open."""

    def __init__(self, store: RedisStore, queries: Queries, pipeline: Pipeline) -> None:
        self.store = store
        self.handler = CommandHandler(store)
        self._queries = queries
        self._pipeline = pipeline
        self.submitted: list[str] = []

    @classmethod
    async def open(cls, redis_url: str, postgres_url: str) -> Self:
        """A client of the deployment with these servers, in the namespace that `tailrace up` makes."""
        store = await RedisStore.open(RedisSettings(url=redis_url), namespace=Settings().namespace, create=False)
        return cls(store, Queries(postgres_url), await store.put_definition(line(STEPS)))

    @classmethod
    @asynccontextmanager
    async def opened(cls, redis_url: str, postgres_url: str) -> AsyncIterator[Self]:
        """As `open`, for a block."""
        load = await cls.open(redis_url, postgres_url)
        try:
            yield load
        finally:
            await load.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._queries.close()
        await self.store.aclose()

    async def submit(self, workflow_id: str) -> None:
        """Start a run."""
        self.submitted.append(workflow_id)
        await self._create(workflow_id, self._pipeline)

    async def _create(self, workflow_id: str, pipeline: Pipeline) -> None:
        command = CreateWorkflow(
            workflow_id=workflow_id, definition=pipeline.hash, type=pipeline.definition.name, name="bench"
        )
        await self.handler.create(command, actor="bench")

    async def leave_open(self, definition: Definition, runs: int) -> None:
        """Start so many runs that stay open, as fast as can be."""
        pipeline = await self.store.put_definition(definition)
        for begun in range(0, runs, SUBMIT_BATCH):
            batch = min(SUBMIT_BATCH, runs - begun)
            await asyncio.gather(*(self._create(new_id(), pipeline) for _ in range(batch)))

    async def drive(self, runs: int, open_runs: int) -> None:
        """Keep `open_runs` open until `runs` have ended and the read models show them."""
        await self.complete(runs, open_runs)
        await self.wait_projected()

    async def complete(self, runs: int, open_runs: int) -> None:
        """Keep `open_runs` open until `runs` have ended; what was open before is left out of account, and stays so."""
        others = await self.store.open_count()
        waiting = runs
        fewest, last = runs, time.monotonic()
        while left := waiting + (still_open := await self.store.open_count() - others):
            batch = min(waiting, open_runs - still_open)
            if batch > 0:
                await asyncio.gather(*(self.submit(new_id()) for _ in range(batch)))
                waiting -= batch
            else:
                await asyncio.sleep(LOOK_SECONDS)
            if left < fewest:
                fewest, last = left, time.monotonic()
            check(holds=time.monotonic() - last < PATIENCE_SECONDS, otherwise=f"{left} runs do not complete")

    async def wait_ended(self) -> None:
        """Until none is open."""
        fewest, last = await self.store.open_count(), time.monotonic()
        while left := await self.store.open_count():
            if left < fewest:
                fewest, last = left, time.monotonic()
            check(holds=time.monotonic() - last < PATIENCE_SECONDS, otherwise=f"{left} runs do not complete")
            await asyncio.sleep(LOOK_SECONDS)

    async def wait_projected(self) -> None:
        """Until the read models hold all that is in the log now, and show every run that was driven as completed."""
        heads = [(await self.store.head(partition)).seq for partition in range(self.store.partitions)]
        fewest, last = sum(heads), time.monotonic()
        while left := await self._behind(heads):
            if left < fewest:
                fewest, last = left, time.monotonic()
            stuck = time.monotonic() - last >= PATIENCE_SECONDS
            check(holds=not stuck, otherwise=f"the read models stay {left} events behind")
            await asyncio.sleep(LOOK_AT_ROWS_SECONDS)
        shown = (await self._queries.overview()).by_status["completed"]
        wanted = f"the read models show {shown} of {len(self.submitted)} runs as completed"
        check(holds=shown >= len(self.submitted), otherwise=wanted)

    async def _behind(self, heads: Sequence[int]) -> int:
        """How many events of the log the slowest projection of each partition has before it."""
        places = [[0] for _ in heads]
        for row in await self._queries.checkpoints():
            places[row.partition].append(row.seq)
        return sum(max(0, head - min(seen[1:] or seen)) for head, seen in zip(heads, places, strict=True))

    async def once(self) -> None:
        """One run, from submit until its last event is in the log, where it is waited for."""
        workflow_id = new_id()
        partition = partition_of(workflow_id, self.store.partitions)
        after = (await self.store.head(partition)).last_entry_id
        await self.submit(workflow_id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for entry in await self.store.read_log(partition, after, count=100, block_seconds=1.0):
                if entry.workflow_id == workflow_id and entry.type == "WorkflowCompleted":
                    return
                after = entry.entry_id
        check(holds=False, otherwise=f"run {workflow_id} does not complete")

    async def verify(self) -> None:
        """Look at each run: completed, with the number that its last stage had to give."""
        name = last_stage(len(self._pipeline.definition.stages))
        for workflow_id in self.submitted:
            snapshot = await self.store.load(workflow_id)
            status = None if snapshot is None else snapshot.state.status
            check(holds=status == "completed", otherwise=f"run {workflow_id} is {status}")
            if snapshot is not None:
                number = snapshot.stage_outputs()[name]["number"]
                check(holds=number == STEPS, otherwise=f"run {workflow_id} counted to {number}")


def new_id() -> str:
    """The id of a run that begins now."""
    return new_workflow_id(time.time_ns() // 1000)


def main() -> None:
    """Measure, and give the answer."""
    task = read_task(__doc__)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        load = runner.run(Load.open(task.redis_url, task.postgres_url))
        try:
            answer = measure(
                "tailrace",
                tailrace.__version__,
                task,
                lambda runs, open_runs: runner.run(load.drive(runs, open_runs)),
                lambda: runner.run(load.once()),
            )
            runner.run(load.verify())
        finally:
            runner.run(load.aclose())
    give(answer)


if __name__ == "__main__":
    main()
