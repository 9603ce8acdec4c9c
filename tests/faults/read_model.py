"""Faults of the read model: the run is fine, lists and history are not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailrace.core.workflow.definition import Pipeline
from tailrace.infra.processes.gateway import archived
from tailrace.projections.queries import Queries
from tailrace.projections.watchdog import diagnose
from tailrace.projections.watchdog.read_model import LAG
from tests.chaos.stand_by import StandBy
from tests.faults.case import healthy, why
from tests.faults.ground import Ground
from tests.faults.probe import Explain, Probe
from tests.faults.site import PATIENCE_SECONDS, Site, one
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

AGENT = "viewed"


class Projected:
    """A site with a projector, and `why` as the gateway gives it."""

    def __init__(self, site: Site, projector: StandBy, explain: Explain, queries: Queries, proxy: FaultProxy) -> None:
        self.site = site
        self.projector = projector
        self.explain = explain
        self.queries = queries
        self.proxy = proxy

    async def caught_up(self) -> None:
        """Wait until the read model has all of the log."""

        async def same() -> bool:
            head = await self.site.store.head(0)
            rows = await self.queries.checkpoints()
            return bool(rows) and all(row.seq == head.seq for row in rows)

        await eventually(same, PATIENCE_SECONDS)

    async def working_run(self) -> str:
        """A run that is worked on, and well."""
        run = await self.site.start(one(AGENT), {"do": "hang"})
        await self.site.begun(run)
        return run

    async def many_events(self, pipeline: Pipeline) -> None:
        """More than what a projection may be behind without a word."""
        begin = (await self.site.store.head(0)).seq
        while (await self.site.store.head(0)).seq - begin <= LAG:
            await self.site.start(pipeline)


@asynccontextmanager
async def projected(ground: Ground) -> AsyncIterator[Projected]:
    """A namespace of one partition with everything, its Postgres behind a proxy."""
    url = await ground.database()
    async with FaultProxy(url) as proxy, ground.site(postgres_url=proxy.url, partitions=1) as site:
        await site.engine()
        projector, _ = await asyncio.gather(site.process("projector"), site.worker(AGENT, slots=8))
        async with Queries(proxy.url, instance_id=site.store.instance_id) as queries:

            async def explain(run: str) -> object:
                return await diagnose(site.store, run, read_model=queries, archived=archived(queries))

            yield Projected(site, projector, explain, queries, proxy)  # type: ignore[arg-type]  # it gives a Diagnosis


@why("projection-behind")
async def projector_stopped(ground: Ground, probe: Probe) -> None:
    """The projector is stopped with SIGSTOP, and the log goes on without it."""
    async with projected(ground) as world:
        run = await world.working_run()
        await world.caught_up()
        world.projector.signal(signal.SIGSTOP)
        await world.many_events(one("unserved", expect_start_seconds=600.0))
        await probe.explained(world.site, run, explain=world.explain)


@why("log-diverged")
async def log_trimmed(ground: Ground, probe: Probe) -> None:
    """The log is trimmed under the projector, which has not read all of it."""
    async with projected(ground) as world:
        run = await world.working_run()
        await world.caught_up()
        world.projector.signal(signal.SIGSTOP)
        for _ in range(5):
            await world.site.start(one("unserved", expect_start_seconds=600.0))
        await world.site.redis("XTRIM", world.site.part(run).log, "MAXLEN", 1)
        world.projector.signal(signal.SIGCONT)
        await probe.explained(world.site, run, explain=world.explain)


@why("log-diverged")
async def garbage_in_the_log(ground: Ground, probe: Probe) -> None:
    """Somebody added an entry to the log that is none of ours, and has no number."""
    async with projected(ground) as world:
        run = await world.working_run()
        await world.caught_up()
        await world.site.redis("XADD", world.site.part(run).log, "*", "garbage", "yes")
        await probe.explained(world.site, run, explain=world.explain)


@why("projection-parked")
async def event_that_nobody_can_read(ground: Ground, probe: Probe) -> None:
    """An event of a run stands in the log, with the right number, in bytes that nobody can read."""
    async with projected(ground) as world:
        run = await world.working_run()
        await world.caught_up()
        part, state = world.site.part(run), await world.site.state(run)
        seq = await world.site.redis("HINCRBY", part.head, "seq", 1)
        place = ("workflow", run, "version", state.version + 1, "seq", seq, "traceparent", "")
        await world.site.redis("XADD", part.log, "*", "type", "TaskStarted", *place, "data", b"\xc1")
        await probe.explained(world.site, run, explain=world.explain)


@healthy()
async def postgres_gone(ground: Ground, probe: Probe) -> None:
    """Postgres can't be reached while a run goes on to its end, and is back later."""
    async with projected(ground) as world:
        run = await world.site.start(one(AGENT), {"do": "slow", "seconds": 4.0})
        await world.site.begun(run)
        world.proxy.refusing = True
        world.proxy.cut()
        said = await world.explain(run)
        assert said.cause is None
        assert "read model" in said.unreachable
        await world.site.ended(run)
        world.proxy.heal()
        await world.caught_up()
        await probe.unflagged(world.site, [run])


@healthy()
async def projector_started_again(ground: Ground, probe: Probe) -> None:
    """The projector is killed while a run goes on, and started again."""
    async with projected(ground) as world:
        run = await world.site.start(one(AGENT), {"do": "slow", "seconds": 3.0})
        await world.site.begun(run)
        world.projector.signal(signal.SIGKILL)
        await world.site.ended(run)
        await world.caught_up()
        said = await world.explain(run)
        assert said.cause is None
        await probe.unflagged(world.site, [run])
