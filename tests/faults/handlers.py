"""Faults of handlers: they fail, never return, end their workers, or say what no log takes."""

from __future__ import annotations

from tailrace.core.workflow.definition import RetryPolicy
from tailrace.core.workflow.policy import TIMER_SLACK_US
from tailrace.projections.watchdog.facts import HEALS_US
from tests.faults.case import stall, why
from tests.faults.delivery import start_due
from tests.faults.ground import COMMON, Ground
from tests.faults.probe import Probe
from tests.faults.site import PATIENCE_SECONDS, STAGE, Site, one
from tests.support.waiting import eventually

TWICE = RetryPolicy(max_attempts=2, backoff_seconds=0.2)
OFTEN = RetryPolicy(max_attempts=50, backoff_seconds=0.2)


async def used_up(site: Site, probe: Probe, run: str) -> None:
    """The run fails, and the watchdog's record says by what."""
    await site.ended(run, "failed")
    await probe.flagged(site, run, (await site.state(run)).completed_at or 0)


@stall("poison", calm=True)
async def poison(ground: Ground, probe: Probe) -> None:
    """A task that ends every worker that takes it, at once."""
    site = await ground.shared()
    await site.worker("poisoned", slots=1)
    run = await site.start(one("poisoned"), {"do": "crash"})
    await site.ended(run, "failed")
    at = (await site.state(run)).completed_at or 0
    await probe.flagged(site, run, at, before={"crash-loop"})


@stall("crash-loop", calm=True)
async def crash_loop(ground: Ground, probe: Probe) -> None:
    """A task that ends its worker after a while, each time."""
    site = await ground.shared()
    await site.worker("crashing", slots=1)
    run = await site.start(one("crashing"), {"do": "crash", "seconds": 4.0})

    async def third() -> bool:
        return (await site.entry(run)).deliveries >= 3

    await eventually(third, PATIENCE_SECONDS)
    await probe.flagged(site, run, await site.store.now())


@stall("retry-budget", fast=True)
async def attempts_used_up(ground: Ground, probe: Probe) -> None:
    """A handler that fails at every attempt."""
    site = await ground.shared()
    await used_up(
        site, probe, await site.start(one(COMMON, retry=TWICE), {"do": "fail", "reason": "flaky", "retryable": True})
    )


@stall("retry-budget")
async def handler_never_returns(ground: Ground, probe: Probe) -> None:
    """A handler that never returns, at every attempt, in a stage with a limit."""
    site = await ground.shared()
    await used_up(site, probe, await site.start(one(COMMON, retry=TWICE, timeout_seconds=1.0), {"do": "hang"}))


@stall("overdue")
async def over_time_and_no_timer(ground: Ground, probe: Probe) -> None:
    """A handler never returns, and the timer of its attempt was removed, so that nothing ends it."""
    site = await ground.shared()
    run = await site.start(one(COMMON, timeout_seconds=2.0), {"do": "hang"})
    task = (await site.begun(run)).stages[STAGE].task
    assert task is not None
    assert task.due_at is not None
    assert await site.redis("ZREM", site.part(run).timers, f"{run}|attempt|{STAGE}|1") == 1
    await probe.flagged(site, run, task.due_at + TIMER_SLACK_US)


@stall("workers-hung")
async def handler_ignores_its_end(ground: Ground, probe: Probe) -> None:
    """A handler goes on though it was told to stop, and holds the only slot that the next attempt needs."""
    site = await ground.shared()
    await site.worker("deaf", slots=1)
    pipeline = one("deaf", retry=OFTEN, timeout_seconds=1.0)
    run = await site.start(pipeline, {"do": "ignore-cancel", "seconds": 120.0})
    await site.begun(run)

    async def second() -> bool:
        task = (await site.state(run)).stages[STAGE].task
        return task is not None and task.attempt == 2

    await eventually(second, PATIENCE_SECONDS)
    await probe.flagged(site, run, await start_due(site, run) + HEALS_US)


@stall("workers-hung")
async def loop_blocked_behind(ground: Ground, probe: Probe) -> None:
    """A handler holds the event loop of its worker, which beats, and has a free slot for the next run, and takes nothing."""
    site = await ground.shared()
    await site.worker("blocked", slots=2)
    first = await site.start(one("blocked"), {"do": "block-loop", "seconds": 25.0})

    async def taken() -> bool:
        return (await site.entry(first)).state == "delivered"

    await eventually(taken, PATIENCE_SECONDS)
    run = await site.start(one("blocked"))
    await probe.flagged(site, run, await start_due(site, run))


@stall("workers-hung", calm=True)
async def loop_blocked(ground: Ground, probe: Probe) -> None:
    """A handler holds the event loop of its worker, so that not even the word comes that it began."""
    site = await ground.shared()
    for agent in ("rigid", "stiff", "frozen-up"):
        await site.worker(agent, slots=2)
        run = await site.start(one(agent), {"do": "block-loop", "seconds": 25.0})
        due = await start_due(site, run)
        await site.passed(1.0)
        task = (await site.state(run)).stages[STAGE].task
        # (Where its word was quicker than the block, it is a handler that works, within its limit: another try.)
        if task is not None and task.started_at is None:
            await probe.flagged(site, run, due)
            return
    raise AssertionError("each worker said that it began before it was blocked")


@stall("dependency-open")
async def breaker_open(ground: Ground, probe: Probe) -> None:
    """The service behind an agent is down, and its breaker open, while the run still has attempts left."""
    site = await ground.shared()
    await site.worker("fragile", app="tests.faults.app:agents")
    run = await site.start(one("fragile", retry=OFTEN))

    async def refused() -> bool:
        error = (await site.state(run)).stages[STAGE].error
        return error is not None and error.reason == "dependency-open"

    await eventually(refused, PATIENCE_SECONDS)
    await probe.flagged(site, run, await site.store.now())


@stall("timer-overdue")
async def retry_timer_removed(ground: Ground, probe: Probe) -> None:
    """An attempt failed, and the timer of the next one was removed."""
    site = await ground.shared()
    retry = RetryPolicy(max_attempts=3, backoff_seconds=2.0)
    run = await site.start(one(COMMON, retry=retry), {"do": "fail", "reason": "flaky", "retryable": True})

    async def removed() -> bool:
        return bool(await site.redis("ZREM", site.part(run).timers, f"{run}|retry|{STAGE}|1"))

    await eventually(removed, PATIENCE_SECONDS)
    retry_at = (await site.state(run)).stages[STAGE].retry_at
    assert retry_at is not None
    await probe.flagged(site, run, retry_at + TIMER_SLACK_US)


@why("backlog", fast=True)
async def all_slots_busy(ground: Ground, probe: Probe) -> None:
    """A run waits behind a thousand others for a worker with one slot."""
    site = await ground.shared()
    await site.worker("narrow", slots=1)
    pipeline = one("narrow")
    long = await site.start(pipeline, {"do": "hang"})
    await site.begun(long)
    for _ in range(1000):
        last = await site.start(pipeline)
    said = await probe.explained(site, last)
    assert said is not None
    await site.passed(4.0)
    await probe.unflagged(site, [long, last])
