"""A client that loads a running deployment: it keeps so many runs of a no-op pipeline open, until so many are complete.

It submits through the command handler, as the gateway does, and learns what became of the runs from the store. A drive ends
when the read models show all of its runs as completed, too. It is a process of its own, and speaks the contract of the peers.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

from uvloop import new_event_loop

import tailrace
from tailrace.core.commands import CreateWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.ids import new_workflow_id
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.workflow.definition import Pipeline
from tailrace.infra.config import Settings
from tailrace.projections.queries import Queries
from tests.bench.noop import last_stage, line
from tests.bench.peers.contract import STEPS, check, give, measure, read_task

#: How often the store is asked how many runs are open, and the read models how far they are; in seconds.
LOOK_SECONDS: Final = 0.005
LOOK_AT_ROWS_SECONDS: Final = 0.02
#: Nothing completed in all that time: the bench is stuck.
PATIENCE_SECONDS: Final = 60.0


class Load:
    """Runs of one definition, submitted and waited for."""

    def __init__(self, store: RedisStore, queries: Queries, pipeline: Pipeline) -> None:
        self._store = store
        self._queries = queries
        self._pipeline = pipeline
        self._handler = CommandHandler(store)
        self.submitted: list[str] = []

    @classmethod
    async def open(cls, redis_url: str, postgres_url: str, *, steps: int = STEPS) -> Self:
        """A client of the deployment with these servers, in the namespace that `tailrace up` makes."""
        store = await RedisStore.open(RedisSettings(url=redis_url), namespace=Settings().namespace, create=False)
        return cls(store, Queries(postgres_url), await store.put_definition(line(steps)))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._queries.close()
        await self._store.aclose()

    async def submit(self, workflow_id: str) -> None:
        """Start a run."""
        command = CreateWorkflow(
            workflow_id=workflow_id, definition=self._pipeline.hash, type=self._pipeline.definition.name, name="bench"
        )
        self.submitted.append(workflow_id)
        await self._handler.create(command, actor="bench")

    async def drive(self, runs: int, open_runs: int) -> None:
        """Keep `open_runs` open until `runs` have ended and the read models show them."""
        waiting = runs
        fewest, last = runs, time.monotonic()
        while left := waiting + (still_open := await self._store.open_count()):
            batch = min(waiting, open_runs - still_open)
            if batch > 0:
                await asyncio.gather(*(self.submit(new_workflow_id(time.time_ns() // 1000)) for _ in range(batch)))
                waiting -= batch
            else:
                await asyncio.sleep(LOOK_SECONDS)
            if left < fewest:
                fewest, last = left, time.monotonic()
            check(holds=time.monotonic() - last < PATIENCE_SECONDS, otherwise=f"{left} runs do not complete")
        await self.wait_projected()

    async def wait_projected(self) -> None:
        """Until the read models show every run as completed."""
        begun = time.monotonic()
        while (shown := (await self._queries.overview()).by_status["completed"]) < len(self.submitted):
            wanted = f"the read models show {shown} of {len(self.submitted)} runs as completed"
            check(holds=time.monotonic() - begun < PATIENCE_SECONDS, otherwise=wanted)
            await asyncio.sleep(LOOK_AT_ROWS_SECONDS)

    async def once(self) -> None:
        """One run, from submit until its last event is in the log, where it is waited for."""
        workflow_id = new_workflow_id(time.time_ns() // 1000)
        partition = partition_of(workflow_id, self._store.partitions)
        after = (await self._store.head(partition)).last_entry_id
        await self.submit(workflow_id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for entry in await self._store.read_log(partition, after, count=100, block_seconds=1.0):
                if entry.workflow_id == workflow_id and entry.type == "WorkflowCompleted":
                    return
                after = entry.entry_id
        check(holds=False, otherwise=f"run {workflow_id} does not complete")

    async def verify(self) -> None:
        """Look at each run: completed, with the number that its last stage had to give."""
        name = last_stage(len(self._pipeline.definition.stages))
        for workflow_id in self.submitted:
            snapshot = await self._store.load(workflow_id)
            status = None if snapshot is None else snapshot.state.status
            check(holds=status == "completed", otherwise=f"run {workflow_id} is {status}")
            if snapshot is not None:
                number = snapshot.stage_outputs()[name]["number"]
                check(holds=number == STEPS, otherwise=f"run {workflow_id} counted to {number}")


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
