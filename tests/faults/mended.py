"""Faults that the watchdog mends by itself, where it may: nothing is flagged, and the run goes on to its end."""

from __future__ import annotations

import signal

from tailrace.core.workflow.definition import RetryPolicy
from tests.faults.case import healthy
from tests.faults.ground import Ground
from tests.faults.probe import Probe
from tests.faults.site import PATIENCE_SECONDS, STAGE, one
from tests.support.waiting import eventually

ALL = {"TAILRACE_REPAIRS": ""}


@healthy()
async def entry_deleted_and_sent_again(ground: Ground, probe: Probe) -> None:
    """The entry of a task is deleted behind the engine's back, before its worker takes it."""
    async with ground.site(settings=ALL) as site:
        await site.engine()
        worker = await site.worker("restored")
        worker.signal(signal.SIGSTOP)
        run = await site.start(one("restored"))
        entry = await site.entry(run)
        assert await site.redis("XDEL", site.part(run).tasks("restored"), entry.entry_id) == 1
        worker.signal(signal.SIGCONT)
        await site.ended(run)
        await probe.unflagged(site, [run])


@healthy()
async def retry_timer_removed_and_done(ground: Ground, probe: Probe) -> None:
    """An attempt failed, and the timer of the next one was removed."""
    async with ground.site(settings=ALL) as site:
        await site.engine()
        await site.worker("timeless")
        pipeline = one("timeless", retry=RetryPolicy(max_attempts=3, backoff_seconds=1.0))
        run = await site.start(pipeline, {"do": "fail", "reason": "flaky", "retryable": True}, {"do": "succeed"})

        async def removed() -> bool:
            return bool(await site.redis("ZREM", site.part(run).timers, f"{run}|retry|{STAGE}|1"))

        await eventually(removed, PATIENCE_SECONDS)
        await site.ended(run)
        await probe.unflagged(site, [run])


@healthy(calm=True)
async def acknowledged_and_sent_again(ground: Ground, probe: Probe) -> None:
    """A begun task is acknowledged behind the back of its worker, which ends; the next worker is given it."""
    async with ground.site(settings=ALL) as site:
        await site.engine()
        worker = await site.worker("returned")
        run = await site.start(one("returned"), {"do": "slow", "seconds": 3.0})
        await site.begun(run)
        await site.killed(worker)
        entry = await site.entry(run)
        assert await site.redis("XACK", site.part(run).tasks("returned"), "returned", entry.entry_id) == 1
        await site.worker("returned")
        await site.ended(run)
        await probe.unflagged(site, [run])
