"""Faults between an agent's queue and its workers: nobody there, nobody who takes, entries that somebody touched."""

from __future__ import annotations

import signal

from tailrace.core.clock import to_us
from tailrace.projections.watchdog.facts import HEALS_US
from tests.faults.case import stall
from tests.faults.ground import Ground
from tests.faults.probe import Probe
from tests.faults.site import PATIENCE_SECONDS, STAGE, Site, one
from tests.support.waiting import eventually


async def start_due(site: Site, workflow_id: str) -> int:
    """When the start of a run's dispatched task is expected."""
    state = await site.state(workflow_id)
    pipeline = await site.store.pipeline(state.definition)
    (task,) = [stage.task for stage in state.stages.values() if stage.task is not None]
    return task.dispatched_at + to_us(pipeline.stages[STAGE].expect_start_seconds)


@stall("no-worker", fast=True)
async def no_worker(ground: Ground, probe: Probe) -> None:
    """An agent that no worker ever served."""
    site = await ground.shared()
    run = await site.start(one("nobody"))
    await probe.flagged(site, run, await start_due(site, run))


@stall("no-worker")
async def no_group_and_no_worker(ground: Ground, probe: Probe) -> None:
    """The groups of an agent were deleted, and no worker is there to make them again."""
    site = await ground.shared()
    run = await site.start(one("groupless"))
    assert await site.redis("XGROUP", "DESTROY", site.part(run).tasks("groupless"), "groupless") == 1
    await probe.flagged(site, run, await start_due(site, run))


@stall("no-worker")
async def group_deleted_under_a_stopped_worker(ground: Ground, probe: Probe) -> None:
    """The group of an agent is deleted while its only worker, stopped with SIGSTOP, can't make it again."""
    site = await ground.shared()
    worker = await site.worker("ungrouped")
    stopped_at = await site.store.now()
    worker.signal(signal.SIGSTOP)
    run = await site.start(one("ungrouped"))
    assert await site.redis("XGROUP", "DESTROY", site.part(run).tasks("ungrouped"), "ungrouped") == 1
    await probe.flagged(site, run, max(stopped_at + HEALS_US, await start_due(site, run)))


@stall("no-worker")
async def worker_stopped_before(ground: Ground, probe: Probe) -> None:
    """The only worker is stopped with SIGSTOP, and then a task comes."""
    site = await ground.shared()
    worker = await site.worker("frozen")
    stopped_at = await site.store.now()
    worker.signal(signal.SIGSTOP)
    run = await site.start(one("frozen"))
    await probe.flagged(site, run, max(stopped_at + HEALS_US, await start_due(site, run)))


@stall("no-worker")
async def worker_in_another_namespace(ground: Ground, probe: Probe) -> None:
    """The only worker was started with another namespace, so that it serves nobody here."""
    site = await ground.shared()
    async with ground.site() as other:
        await site.worker("astray", settings={"TAILRACE_NAMESPACE": other.store.keys.namespace})
        run = await site.start(one("astray"))
        await probe.flagged(site, run, await start_due(site, run))


@stall("no-worker")
async def worker_on_another_redis(ground: Ground, probe: Probe) -> None:
    """The only worker was started with the URL of another Redis."""
    site = await ground.shared()
    async with ground.own_redis() as (_, server):
        await site.worker("elsewhere", settings={"TAILRACE_REDIS_URL": server.url})
        run = await site.start(one("elsewhere"))
        await probe.flagged(site, run, await start_due(site, run))


@stall("worker-lost", fast=True)
async def worker_stopped(ground: Ground, probe: Probe) -> None:
    """The only worker is stopped with SIGSTOP in the middle of a stage that has ten minutes."""
    site = await ground.shared()
    worker = await site.worker("stopped")
    run = await site.start(one("stopped"), {"do": "hang"})
    await site.begun(run)
    stopped_at = await site.store.now()
    worker.signal(signal.SIGSTOP)
    await probe.flagged(site, run, stopped_at + HEALS_US)


@stall("worker-lost")
async def worker_killed_for_good(ground: Ground, probe: Probe) -> None:
    """The only worker is killed in the middle of a stage, and nobody starts it again."""
    site = await ground.shared()
    worker = await site.worker("killed")
    run = await site.start(one("killed"), {"do": "hang"})
    await site.begun(run)
    killed_at = await site.store.now()
    await site.killed(worker)
    await probe.flagged(site, run, killed_at + HEALS_US)


@stall("not-dispatched", fast=True)
async def entry_deleted(ground: Ground, probe: Probe) -> None:
    """The entry of a task is deleted behind the engine's back, before the worker there takes it."""
    site = await ground.shared()
    worker = await site.worker("emptied")
    worker.signal(signal.SIGSTOP)
    run = await site.start(one("emptied"))
    entry = await site.entry(run)
    assert await site.redis("XDEL", site.part(run).tasks("emptied"), entry.entry_id) == 1
    worker.signal(signal.SIGCONT)
    await probe.flagged(site, run, await start_due(site, run))


@stall("not-dispatched")
async def entry_deleted_and_no_worker(ground: Ground, probe: Probe) -> None:
    """The entry of a task is deleted, and no worker is there: one that came would be given nothing."""
    site = await ground.shared()
    run = await site.start(one("vacant"))
    entry = await site.entry(run)
    assert await site.redis("XDEL", site.part(run).tasks("vacant"), entry.entry_id) == 1
    await probe.flagged(site, run, await start_due(site, run))


@stall("not-dispatched")
async def entry_replaced_by_garbage(ground: Ground, probe: Probe) -> None:
    """The entry of a task is deleted, and one that nobody can read stands in its place."""
    site = await ground.shared()
    worker = await site.worker("garbled")
    worker.signal(signal.SIGSTOP)
    run = await site.start(one("garbled"))
    entry, stream = await site.entry(run), site.part(run).tasks("garbled")
    assert await site.redis("XDEL", stream, entry.entry_id) == 1
    await site.redis("XADD", stream, "*", "task", "?", "data", b"\xc1\x00")
    worker.signal(signal.SIGCONT)
    await probe.flagged(site, run, await start_due(site, run))


@stall("silent-ack")
async def acknowledged_and_gone(ground: Ground, probe: Probe) -> None:
    """A task is acknowledged behind the back of its worker, which ends before it could notice."""
    site = await ground.shared()
    worker = await site.worker("robbed")
    run = await site.start(one("robbed"), {"do": "hang"})
    await site.begun(run)
    await site.killed(worker)
    entry = await site.entry(run)
    acknowledged_at = await site.store.now()
    assert await site.redis("XACK", site.part(run).tasks("robbed"), "robbed", entry.entry_id) == 1
    await probe.flagged(site, run, acknowledged_at + HEALS_US)


@stall("silent-ack")
async def acknowledged_deleted_and_gone(ground: Ground, probe: Probe) -> None:
    """A task is acknowledged and deleted, as by a worker with its report, but there is none; its worker has ended."""
    site = await ground.shared()
    worker = await site.worker("plundered")
    run = await site.start(one("plundered"), {"do": "hang"})
    await site.begun(run)
    await site.killed(worker)
    entry, stream = await site.entry(run), site.part(run).tasks("plundered")
    at = await site.store.now()
    assert await site.redis("XACK", stream, "plundered", entry.entry_id) == 1
    assert await site.redis("XDEL", stream, entry.entry_id) == 1
    await probe.flagged(site, run, at + HEALS_US)


@stall("identity-mismatch")
async def worker_of_a_namespace_that_was_emptied(ground: Ground, probe: Probe) -> None:
    """A namespace was emptied and made anew; the only worker still belongs to the old one, and is busy with its work."""
    async with ground.site(partitions=1) as before:
        worker = await before.worker("ghost", slots=1)
        orchestrator = await before.process("orchestrator")
        old = await before.start(one("ghost"), {"do": "ignore-cancel", "seconds": 60.0})
        await before.begun(old)
        await before.killed(orchestrator)
        worker.hold()
        await before.empty()
        async with ground.site(partitions=1, namespace=before.store.keys.namespace) as site:
            await site.engine()

            async def seen() -> bool:
                return bool(await site.store.workers("ghost"))

            # It says who it is with each beat, and that there is such a worker each ten seconds.
            await eventually(seen, PATIENCE_SECONDS)
            run = await site.start(one("ghost"))
            await probe.flagged(site, run, await start_due(site, run))


@stall("no-worker")
async def expectation_removed(ground: Ground, probe: Probe) -> None:
    """Nobody serves the agent, and the run's expectation was removed, so that it never seems overdue."""
    site = await ground.shared()
    run = await site.start(one("unexpected"))
    due = await start_due(site, run)
    assert await site.redis("ZREM", site.part(run).expect, run) == 1
    await probe.flagged(site, run, due + HEALS_US)
