"""Plays cases side by side, and collects what was found in each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.case import Case
from tests.faults.ground import Ground
from tests.faults.probe import Probe
from tests.faults.result import Outcome, Result

#: How many cases are played at a time. More would measure the machine: each has up to four processes.
AT_ONCE = 10
CALM_AT_ONCE = 3
#: How long one case may take in all.
CASE_SECONDS = 180.0

Show = Callable[[Outcome, int, int], None]


async def trial(cases: Sequence[Case], folder: Path, show: Show, *, at_once: int = AT_ONCE) -> Result:
    """All these cases, in their order as far as one after another begins; `show` is told of each that has ended."""
    began = time.monotonic()
    done: dict[str, Outcome] = {}
    async with Ground.open(folder) as ground:

        async def play(case: Case, turns: asyncio.Semaphore) -> None:
            async with turns:
                done[case.name] = await _played(case, ground)
            show(done[case.name], len(done), len(cases))

        for calm, most in ((False, at_once), (True, min(at_once, CALM_AT_ONCE))):
            turns = asyncio.Semaphore(most)
            async with asyncio.TaskGroup() as group:
                for case in cases:
                    if case.calm is calm:
                        group.create_task(play(case, turns))
    return Result(outcomes=[done[case.name] for case in cases], seconds=time.monotonic() - began)


async def _played(case: Case, ground: Ground) -> Outcome:
    probe = Probe(case)
    began = time.monotonic()
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await case.play(ground, probe)
    except Exception as error:  # noqa: BLE001  # one case that breaks must not hide what the others found
        probe.outcome.error = f"{type(error).__name__}: {error}"
    probe.outcome.took_seconds = round(time.monotonic() - began, 1)
    return probe.outcome
