"""Histories of the whole system from seeds: under all faults the promises are kept, and each can be replayed exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.world import simulate

ROOT: Final = Path(__file__).parents[2]
#: A slice of what `make simulate` runs, in portions, so that a failure names its portion.
SEEDS: Final = 150
PORTION: Final = 30

simulated = cache(simulate)


@pytest.mark.parametrize("first", range(1, SEEDS, PORTION))
def test_every_history_keeps_the_promises(first: int) -> None:
    """Nothing lost, nothing twice, no run without a next step. Replay: `python -m tests.simulation --seed N`."""
    for seed in range(first, first + PORTION):
        outcome = simulated(seed)
        assert not outcome.violations, f"seed {seed}: {outcome.violations}\n" + "\n".join(outcome.lines[-30:])


def test_a_seed_gives_the_same_history_each_time() -> None:
    """Also in another process, where hashes of texts are others."""
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    for seed in (17, 18):
        lines = simulate(seed, traced=True).lines
        assert lines == simulate(seed, traced=True).lines
        again = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert again.stdout.splitlines()[:-1] == list(lines)
        assert len(lines) > 50


def test_other_seeds_give_other_histories() -> None:
    """Everything comes from the seed, and all of it."""
    assert len({simulate(seed, traced=True).lines for seed in range(1, 6)}) == 5


def test_faults_of_every_kind_are_injected() -> None:
    """What is never injected is never tried: a few seeds reach every kind of fault, and many crash points."""
    outcomes = [simulated(seed) for seed in range(1, 101)]
    injected = {kind for outcome in outcomes for kind in outcome.injected}
    assert injected == {
        *("lost-request", "lost-reply", "late-effect", "delay", "twice"),
        *("kill", "stop", "stall", "freeze", "outage", "clock-forth", "clock-back", "entry-gone", "deadly handler"),
        *("task-gone", "acknowledged", "timer-gone"),
    }
    assert len({point for outcome in outcomes for point in outcome.crashed}) > 25


def test_histories_reach_what_is_rare() -> None:
    """Runs that are forgotten come back, the watchdog mends tasks and timers, and tasks get their inputs in both ways."""
    happened = {what for seed in range(1, 101) for what, times in simulated(seed).happened.items() if times}
    assert happened >= {
        *("run rehydrated", "inputs given along", "inputs read"),
        *("watchdog: FlagStall", "watchdog: RedispatchTask", "watchdog: FireTimer"),
    }
