"""What looks like a fault and is none: it is slow, waits as planned, or heals itself in time."""

from __future__ import annotations

import asyncio
import signal

from tailrace.core.codec import encode
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.testing import builders
from tailrace.core.workflow.definition import RetryPolicy
from tests.faults.case import healthy
from tests.faults.ground import COMMON, Ground
from tests.faults.probe import Probe
from tests.faults.site import one


@healthy(fast=True)
async def slow_stage(ground: Ground, probe: Probe) -> None:
    """Work that takes far longer than its start was expected to, within its limit."""
    site = await ground.shared()
    run = await site.start(one(COMMON), {"do": "slow", "seconds": 8.0})
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(calm=True)
async def worker_started_again(ground: Ground, probe: Probe) -> None:
    """The only worker is killed in the middle of a stage, and started again at once."""
    site = await ground.shared()
    worker = await site.worker("again")
    run = await site.start(one("again"), {"do": "slow", "seconds": 3.0})
    await site.begun(run)
    worker.signal(signal.SIGKILL)
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(calm=True)
async def task_taken_over(ground: Ground, probe: Probe) -> None:
    """A worker is killed for good in the middle of a stage, and another one takes its task over."""
    site = await ground.shared()
    worker = await site.worker("heirs", slots=1)
    run = await site.start(one("heirs"), {"do": "slow", "seconds": 4.0})
    await site.begun(run)
    await site.worker("heirs", slots=1)
    await site.killed(worker)
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(calm=True)
async def worker_stopped_for_a_moment(ground: Ground, probe: Probe) -> None:
    """The only worker is stopped for less than what heals itself, and goes on."""
    site = await ground.shared()
    worker = await site.worker("blinking")
    run = await site.start(one("blinking"), {"do": "slow", "seconds": 5.0})
    await site.begun(run)
    worker.signal(signal.SIGSTOP)
    await site.passed(3.5)
    worker.signal(signal.SIGCONT)
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def backlog_that_drains(ground: Ground, probe: Probe) -> None:
    """Two hundred runs at once for a worker with two slots: each waits for many times what its start may take."""
    site = await ground.shared()
    await site.worker("draining", slots=2)
    pipeline = one("draining")
    runs = [await site.start(pipeline, {"do": "slow", "seconds": 0.1}) for _ in range(200)]
    for run in runs:
        await site.ended(run)
    await probe.unflagged(site, runs)


@healthy()
async def retries_with_backoff(ground: Ground, probe: Probe) -> None:
    """A handler fails twice, with a wait of seconds after each."""
    site = await ground.shared()
    flaky = {"do": "fail", "reason": "flaky", "retryable": True}
    retry = RetryPolicy(max_attempts=3, backoff_seconds=3.0)
    run = await site.start(one(COMMON, retry=retry), flaky, flaky, {"do": "succeed"})
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def long_timer(ground: Ground, probe: Probe) -> None:
    """The next attempt is an hour away."""
    site = await ground.shared()
    retry = RetryPolicy(max_attempts=3, backoff_seconds=3600.0, max_backoff_seconds=3600.0)
    run = await site.start(one(COMMON, retry=retry), {"do": "fail", "reason": "flaky", "retryable": True})
    await probe.unflagged(site, [run], still_seconds=12.0)


@healthy()
async def cancelled_in_the_middle(ground: Ground, probe: Probe) -> None:
    """A run is cancelled while its handler, which does not listen, works on."""
    site = await ground.shared()
    run = await site.start(one(COMMON), {"do": "ignore-cancel", "seconds": 10.0})
    await site.begun(run)
    await site.say(run, CancelWorkflow())
    await site.ended(run, "cancelled")
    await probe.unflagged(site, [run], still_seconds=10.0)


@healthy()
async def paused_and_resumed(ground: Ground, probe: Probe) -> None:
    """A pause that is longer than the stage's time, whose clock stands still meanwhile."""
    site = await ground.shared()
    run = await site.start(one(COMMON, timeout_seconds=6.0), {"do": "slow", "seconds": 9.0})
    await site.begun(run)
    await site.say(run, PauseWorkflow())
    await site.passed(8.0)
    await site.say(run, ResumeWorkflow())
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(fast=True)
async def limit_and_another_try(ground: Ground, probe: Probe) -> None:
    """The first attempt never returns and is ended by its limit; the second one works."""
    site = await ground.shared()
    run = await site.start(one(COMMON, timeout_seconds=2.0), {"do": "hang"}, {"do": "succeed"})
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def group_deleted(ground: Ground, probe: Probe) -> None:
    """The groups of an agent are deleted under its worker, which makes them again."""
    site = await ground.shared()
    await site.worker("regrouping")
    for partition in range(site.store.partitions):
        stream = site.store.keys.partition(partition).tasks("regrouping")
        assert await site.redis("XGROUP", "DESTROY", stream, "regrouping") == 1
    run = await site.start(one("regrouping"))
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def acknowledged_under_its_worker(ground: Ground, probe: Probe) -> None:
    """A task is acknowledged behind the back of its worker, which notices, so that it is dispatched again."""
    site = await ground.shared()
    await site.worker("noticing")
    run = await site.start(one("noticing"), {"do": "slow", "seconds": 4.0})
    await site.begun(run)
    entry = await site.entry(run)
    assert await site.redis("XACK", site.part(run).tasks("noticing"), "noticing", entry.entry_id) == 1
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def garbage_in_the_tasks(ground: Ground, probe: Probe) -> None:
    """An entry that nobody can read stands before a run's task."""
    site = await ground.shared()
    await site.worker("skipping")
    pipeline = one("skipping")
    await site.store.put_definition(pipeline.definition)
    for partition in range(site.store.partitions):
        stream = site.store.keys.partition(partition).tasks("skipping")
        await site.redis("XADD", stream, "*", "data", b"\xc1\x00", "task", "?")
    run = await site.start(pipeline)
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def garbage_in_the_reports(ground: Ground, probe: Probe) -> None:
    """Reports that nobody can read, and one on a task that there is not, come while a stage runs."""
    site = await ground.shared()
    run = await site.start(one(COMMON), {"do": "slow", "seconds": 4.0})
    await site.begun(run)
    reports = site.part(run).reports
    await site.redis("XADD", reports, "*", "garbage", "yes")
    await site.redis("XADD", reports, "*", "workflow", run, "task", "x", "traceparent", "", "data", b"\xc1")
    for task in (f"{run}:work:7", f"{run}:other:1", "nobody:work:1"):
        data = encode(builders.completed(task))
        await site.redis(
            "XADD", reports, "*", "workflow", task.partition(":")[0], "task", task, "traceparent", "", "data", data
        )
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy()
async def clock_ahead(ground: Ground, probe: Probe) -> None:
    """The clock of a worker is ten seconds ahead of all others."""
    await _skewed(ground, probe, "ahead", 10.0)


@healthy()
async def clock_behind(ground: Ground, probe: Probe) -> None:
    """The clock of a worker is ten seconds behind all others."""
    await _skewed(ground, probe, "behind", -10.0)


async def _skewed(ground: Ground, probe: Probe, agent: str, seconds: float) -> None:
    site = await ground.shared()
    await site.worker(agent, skew_seconds=seconds)
    run = await site.start(one(agent, timeout_seconds=8.0), {"do": "slow", "seconds": 6.0})
    await site.ended(run)
    await probe.unflagged(site, [run])


@healthy(calm=True)
async def clocks_of_the_engine_wrong(ground: Ground, probe: Probe) -> None:
    """The clocks of orchestrator and watchdog are ten seconds off, in opposite directions."""
    async with ground.site() as site:
        await asyncio.gather(
            site.process("orchestrator", skew_seconds=10.0),
            site.process("watchdog", skew_seconds=-10.0),
            site.worker("steady"),
        )
        await site.passed(5.0)
        run = await site.start(one("steady", timeout_seconds=8.0), {"do": "slow", "seconds": 6.0})
        await site.ended(run)
        await probe.unflagged(site, [run])


@healthy()
async def another_build(ground: Ground, probe: Probe) -> None:
    """One of two workers runs an older build; that is said, and stops nobody."""
    site = await ground.shared()
    await asyncio.gather(site.worker("mixed"), site.worker("mixed", build="0.0.1+old"))
    runs = [await site.start(one("mixed"), {"do": "slow", "seconds": 3.0}) for _ in range(4)]
    for run in runs:
        await site.ended(run)
    await probe.unflagged(site, runs)


@healthy(calm=True)
async def engine_started_again(ground: Ground, probe: Probe) -> None:
    """Orchestrator, watchdog and worker are killed one after the other while a run goes on, and started again."""
    async with ground.site() as site:
        orchestrator, watchdog = await site.engine()
        worker = await site.worker("enduring")
        run = await site.start(one("enduring"), {"do": "slow", "seconds": 4.0})
        await site.begun(run)
        for process in (orchestrator, watchdog, worker):
            process.signal(signal.SIGKILL)
            await site.passed(1.0)
        await site.ended(run)
        await probe.unflagged(site, [run], still_seconds=5.0)


@healthy()
async def slow_redis(ground: Ground, probe: Probe) -> None:
    """Each reply of Redis takes a tenth of a second."""
    async with ground.behind_proxy() as (site, proxy):
        await site.engine()
        await site.worker("patient")
        proxy.delay_seconds = 0.1
        runs = [await site.start(one("patient"), {"do": "slow", "seconds": 2.0}) for _ in range(6)]
        for run in runs:
            await site.ended(run)
        await probe.unflagged(site, runs)


@healthy()
async def redis_started_again(ground: Ground, probe: Probe) -> None:
    """Redis is killed in the middle of a stage, and is back after six seconds."""
    async with ground.own_redis() as (site, server):
        await site.engine()
        await site.worker("waiting")
        run = await site.start(one("waiting"), {"do": "slow", "seconds": 10.0})
        await site.begun(run)
        await server.kill()
        await asyncio.sleep(6.0)  # that long it is away: there is no clock to ask meanwhile
        await server.start()
        await site.ended(run)
        await probe.unflagged(site, [run], still_seconds=6.0)
