"""Faults of handlers: they fail, never return, end their workers, or say what no log takes."""

from __future__ import annotations

from tailrace.core.workflow.definition import RetryPolicy
from tests.faults.case import stall
from tests.faults.ground import COMMON, Ground
from tests.faults.probe import Probe
from tests.faults.site import one

TWICE = RetryPolicy(max_attempts=2, backoff_seconds=0.2)


@stall("retry-budget", fast=True)
async def attempts_used_up(ground: Ground, probe: Probe) -> None:
    """A handler that fails at every attempt."""
    site = await ground.shared()
    run = await site.start(one(COMMON, retry=TWICE), {"do": "fail", "reason": "flaky", "retryable": True})
    await site.ended(run, "failed")
    await probe.flagged(site, run, (await site.state(run)).completed_at or 0)
