"""Faults between an agent's queue and its workers: nobody there, nobody who takes, entries that somebody touched."""

from __future__ import annotations

import signal

from tailrace.core.clock import to_us
from tailrace.projections.watchdog.facts import HEALS_US
from tests.faults.case import healthy, stall
from tests.faults.ground import COMMON, Ground
from tests.faults.probe import Probe
from tests.faults.site import STAGE, Site, one


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
    pipeline = one("groupless")
    await site.store.put_definition(pipeline.definition)
    for partition in range(site.store.partitions):
        stream = site.store.keys.partition(partition).tasks("groupless")
        assert await site.redis("XGROUP", "DESTROY", stream, "groupless") == 1
    run = await site.start(pipeline)
    for partition in range(site.store.partitions):
        await site.redis("XGROUP", "DESTROY", site.store.keys.partition(partition).tasks("groupless"), "groupless")
    await probe.flagged(site, run, await start_due(site, run))


@stall("no-worker")
async def worker_stopped_before(ground: Ground, probe: Probe) -> None:
    """The only worker is stopped with SIGSTOP, and then a task comes."""
    site = await ground.shared()
    worker = await site.worker("frozen")
    stopped_at = await site.store.now()
    worker.signal(signal.SIGSTOP)
    run = await site.start(one("frozen"))
    await probe.flagged(site, run, max(stopped_at + HEALS_US, await start_due(site, run)))


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


@healthy(fast=True)
async def slow_stage(ground: Ground, probe: Probe) -> None:
    """Work that takes far longer than its start was expected to, within its limit."""
    site = await ground.shared()
    run = await site.start(one(COMMON), {"do": "slow", "seconds": 8.0})
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(fast=True)
async def worker_started_again(ground: Ground, probe: Probe) -> None:
    """The only worker is killed in the middle of a stage, and started again at once."""
    site = await ground.shared()
    worker = await site.worker("again")
    run = await site.start(one("again"), {"do": "slow", "seconds": 3.0})
    await site.begun(run)
    worker.signal(signal.SIGKILL)
    await site.ended(run)
    await probe.unflagged(site, [run])
