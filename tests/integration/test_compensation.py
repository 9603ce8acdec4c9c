"""What a run did is undone on a real server by a real worker: in reverse, and not while a cancelled handler is at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.commands import CancelWorkflow
from tailrace.core.store.port import Limits
from tailrace.core.testing.builders import pipeline, stage, undone
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog.why import diagnose
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.engine_process import make_worker
from tests.support.waiting import beside, eventually

SERVERS = pipeline(
    undone("rent", agent="cloud"),
    undone("install", "rent", agent="cloud"),
    stage("check", "install", agent="checks"),
    cancel_grace_seconds=30.0,
)


class Rented(TaskInput, frozen=True, kw_only=True):
    """What the compensation of a stage gets: what that gave, in a type of its own."""

    output: dict[str, str]


class Cloud:
    """An outside world that stages change, and their compensations change back. `says` is what happened, in order."""

    def __init__(self) -> None:
        self.says: list[str] = []
        self.is_busy = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.agent = Agent("cloud", files=False)
        self.checks = Agent("checks", files=False)

        @self.agent.action("rent")
        async def rent(context: TaskContext, input: TaskInput) -> dict[str, str]:
            assert not context.compensating
            self.says.append("rent")
            return {"server": f"s-{context.attempt}"}

        @self.agent.action("install")
        async def install(context: TaskContext, input: TaskInput) -> dict[str, str]:
            self.says.append("install")
            return {"on": input.stages["rent"]["server"]}

        @self.agent.compensation("rent")
        async def give_back(context: TaskContext, input: Rented) -> None:
            assert context.compensating
            self.says.append(f"give back {input.output['server']}")

        @self.agent.compensation("install")
        async def uninstall(context: TaskContext, input: Rented) -> None:
            assert input.stages == {"rent": {"server": "s-1"}}
            self.says.append(f"uninstall {input.output['on']}")

        @self.checks.action("check")
        async def check(context: TaskContext, input: TaskInput) -> Any:
            self.is_busy.set()
            try:
                await asyncio.Event().wait()
            finally:
                await self.may_stop.wait()
                self.says.append("check stopped")

    @asynccontextmanager
    async def working(self, bench: Bench, agent: Agent, **options: Any) -> AsyncIterator[None]:
        """A real worker of one of the two agents."""
        worker = make_worker(bench.store, agent, f"w-{agent.name}", bench.folder, drain_seconds=0.0, **options)
        stop, joined = asyncio.Event(), asyncio.Event()
        async with beside(worker.run(stop, joined=joined)) as (task,):
            await joined.wait()
            yield
            stop.set()
            await task


async def test_a_cancelled_run_is_undone_after_its_handler_has_stopped(bench: Bench) -> None:
    """It goes on running until then, and says why; the last event is that of the cancellation."""
    definition = (await bench.prepare(SERVERS)).pipeline
    cloud = Cloud()
    async with (
        bench.orchestrating(),
        cloud.working(bench, cloud.agent),
        cloud.working(bench, cloud.checks, renew_seconds=0.05),
    ):
        run = await bench.submit(definition)
        await cloud.is_busy.wait()
        await bench.handler.execute(run, CancelWorkflow(reason="too dear"), actor="test")

        async def waits() -> bool:
            state = await bench.state(run)
            return state.status == "running" and state.ending is not None

        await eventually(waits)
        diagnosis = await diagnose(bench.store, run, second_look_seconds=0.05)
        assert (diagnosis.cause, diagnosis.healthy) == (None, True)
        assert f"waits for handlers that were told to stop ({run}:check:1)" in diagnosis.summary
        assert cloud.says == ["rent", "install"]
        cloud.may_stop.set()
        await bench.wait_status("cancelled", run)
    assert cloud.says == ["rent", "install", "check stopped", "uninstall s-1", "give back s-1"]
    assert await bench.store.client.command("HLEN", bench.part(run).cancels) == 0
    types = [entry.type for entry in (await audit(bench.store))[run]]
    assert types.index("TaskStopped") > types.index("CompensationStarted")
    assert types[-1] == "WorkflowCancelled"


async def test_nobody_is_waited_for_who_never_began(bench: Bench) -> None:
    """The task is queued, its agent has no worker: the store says so itself, and the grace of 30 s is not needed."""
    definition = (await bench.prepare(SERVERS)).pipeline
    cloud = Cloud()
    async with bench.orchestrating(), cloud.working(bench, cloud.agent):
        run = await bench.submit(definition)

        async def installed() -> bool:
            return (await bench.state(run)).stages["check"].task is not None

        await eventually(installed)
        await bench.handler.execute(run, CancelWorkflow(), actor="test")
        await bench.wait_status("cancelled", run, timeout=10.0)
    assert cloud.says == ["rent", "install", "uninstall s-1", "give back s-1"]
    assert await bench.reports() == []
    await audit(bench.store)


async def test_a_lost_lease_leads_on(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """The worker of the cancelled task is gone without a word: whoever claims finds that, long before the grace is over."""
    limits = Limits(lease_seconds=0.5)
    async with Bench.on(redis_server.url, tmp_path, limits=limits) as bench:
        definition = (await bench.prepare(SERVERS)).pipeline
        cloud = Cloud()
        async with bench.orchestrating(), cloud.working(bench, cloud.agent):
            run = await bench.submit(definition)
            gone = bench.queue("gone", agent="checks")
            await gone.join()
            assert await gone.take(1, block_seconds=5)
            await bench.handler.execute(run, CancelWorkflow(), actor="test")
            async with cloud.working(bench, cloud.checks):
                await bench.wait_status("cancelled", run, timeout=10.0)
        assert cloud.says == ["rent", "install", "uninstall s-1", "give back s-1"]
        assert not cloud.is_busy.is_set()
        await audit(bench.store)
