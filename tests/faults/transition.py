"""Faults between a report and the next dispatch: nobody applies it, it can't be applied, or what follows is gone."""

from __future__ import annotations

import signal

import msgspec

from tailrace.core.codec import encode
from tailrace.core.commands import PauseWorkflow
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.testing import builders
from tailrace.projections.watchdog.facts import HEALS_US
from tests.faults.case import stall, why
from tests.faults.delivery import start_due
from tests.faults.ground import COMMON, Ground
from tests.faults.probe import Probe
from tests.faults.site import PATIENCE_SECONDS, STAGE, Site, one
from tests.support.waiting import eventually


async def report_due(site: Site, run: str) -> int:
    """Wait for a report on the run's partition; gives when it is to be applied at the latest."""
    reports = site.part(run).reports

    async def waits() -> int:
        entries = await site.redis("XRANGE", reports, "-", "+", "COUNT", 1)
        return int(entries[0][0].partition(b"-")[0]) * 1000 if entries else 0

    return await eventually(waits, PATIENCE_SECONDS) + HEALS_US


@stall("orchestrator-behind")
async def orchestrator_stopped(ground: Ground, probe: Probe) -> None:
    """The only orchestrator is stopped with SIGSTOP in the middle of a stage."""
    async with ground.site() as site:
        (orchestrator, _), _ = await site.engine(), await site.worker("late")
        run = await site.start(one("late"), {"do": "slow", "seconds": 1.0})
        await site.begun(run)
        orchestrator.signal(signal.SIGSTOP)
        await probe.flagged(site, run, await report_due(site, run))


@stall("orchestrator-behind")
async def orchestrator_killed_for_good(ground: Ground, probe: Probe) -> None:
    """The only orchestrator is killed in the middle of a stage, and nobody starts it again."""
    async with ground.site() as site:
        (orchestrator, _), _ = await site.engine(), await site.worker("late")
        run = await site.start(one("late"), {"do": "slow", "seconds": 1.0})
        await site.begun(run)
        await site.killed(orchestrator)
        await probe.flagged(site, run, await report_due(site, run))


@stall("orchestrator-behind")
async def no_orchestrator(ground: Ground, probe: Probe) -> None:
    """No orchestrator was ever started."""
    async with ground.site() as site:
        await site.process("watchdog")
        await site.worker("early")
        run = await site.start(one("early"))
        await probe.flagged(site, run, await report_due(site, run))


@stall("report-rejected")
async def report_with_nul(ground: Ground, probe: Probe) -> None:
    """A result holds a NUL, from a worker that did not check it: no log takes it."""
    await _rejected(ground, probe, "careless", lambda task: builders.completed(task, {"text": "a\x00b"}))


@stall("report-rejected")
async def report_with_nan(ground: Ground, probe: Probe) -> None:
    """A result holds a number that is none."""
    await _rejected(ground, probe, "numberless", lambda task: builders.completed(task, {"value": float("nan")}))


async def _rejected(ground: Ground, probe: Probe, agent: str, report: object) -> None:
    site = await ground.shared()
    assert callable(report)
    run = await site.start(one(agent))
    queue = RedisTasks(site.store, agent, f"{agent}-1")
    (delivery,) = await queue.take(4, block_seconds=1)
    assert await queue.report([(delivery, report(delivery.message.task_id), "")]) == [True]
    await probe.flagged(site, run, await start_due(site, run))


@stall("report-rejected")
async def report_replaced_by_garbage(ground: Ground, probe: Probe) -> None:
    """A begun task ends with a report of bytes that nobody can read; its stage has ten minutes."""
    site = await ground.shared()
    run = await site.start(one("babbling"))
    queue = RedisTasks(site.store, "babbling", "babbling-1")
    (delivery,) = await queue.take(4, block_seconds=1)
    started = builders.started(delivery.message.task_id, worker="babbling-1")
    assert await queue.report([(delivery, started, "")]) == [True]
    await site.begun(run)
    stream = site.part(run).tasks("babbling")
    assert await site.redis("XACK", stream, "babbling", delivery.entry_id) == 1
    assert await site.redis("XDEL", stream, delivery.entry_id) == 1
    at = await site.store.now()
    place = ("workflow", run, "task", delivery.message.task_id, "traceparent", "")
    await site.redis("XADD", site.part(run).reports, "*", *place, "data", b"\xc1not msgpack")
    await probe.flagged(site, run, at)


@stall("report-rejected")
async def report_on_another_task(ground: Ground, probe: Probe) -> None:
    """A worker that checks nothing ends its task with a report on the task of another run; that one is not ended by it."""
    site = await ground.shared()
    run, other = await site.start(one("confused")), await site.start(one("confused"))
    taken = await RedisTasks(site.store, "confused", "confused-1").take(4, block_seconds=1)
    deliveries = {delivery.message.workflow_id: delivery for delivery in taken}
    mine, named = deliveries[run], deliveries[other].message.task_id
    part = site.part(run)
    place = (mine.entry_id, mine.delivery, "1", mine.message.task_id, run, "")
    answer = await site.store.client.call(
        scripts.REPORT,
        [part.reports, part.cancels, mine.stream],
        ["confused", "confused-1", 1, 1, *place, encode(builders.completed(named))],
    )
    assert answer == [b"ok"]
    await probe.flagged(site, run, await start_due(site, run))
    assert (await site.state(other)).stages[STAGE].task is not None


@stall("not-dispatched")
async def state_without_its_task(ground: Ground, probe: Probe) -> None:
    """Somebody wrote a state in which the stage runs, and has no task."""
    site = await ground.shared()
    run = await site.start(one("tampered"))
    due = await start_due(site, run)
    state = await site.state(run)
    stage = msgspec.structs.replace(state.stages[STAGE], task=None)
    tampered = msgspec.structs.replace(state, stages={STAGE: stage})
    await site.redis("HSET", site.part(run).workflow(run), "s", encode(tampered))
    await probe.flagged(site, run, due)


@why("paused", fast=True)
async def paused(ground: Ground, probe: Probe) -> None:
    """A person paused the run in the middle of its stage."""
    site = await ground.shared()
    run = await site.start(one(COMMON), {"do": "hang"})
    await site.begun(run)
    await site.say(run, PauseWorkflow())
    await probe.explained(site, run)
    await probe.unflagged(site, [run], still_seconds=6.0)
