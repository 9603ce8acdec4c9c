"""A slice of `make faults`, and that the corpus leaves no cause out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tailrace.infra.parent import PARENT_VARIABLE
from tailrace.projections.watchdog import CAUSES
from tests.faults.corpus import CASES
from tests.faults.result import AIM_SECONDS, Outcome, Result

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300


def test_a_slice_of_the_corpus(tmp_path: Path) -> None:
    """Some faults of different kinds are named right, and what is healthy beside them is left alone."""
    told = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--fast", "--json", str(told)],
        cwd=ROOT,
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout
    summary = json.loads(told.read_bytes())["summary"]
    assert summary["right"] == summary["faults"] >= 3
    assert summary["healthy"] >= 2


def test_every_cause_has_a_case() -> None:
    """A cause that is new has no case yet, and fails here."""
    labelled = {case.cause for case in CASES.values()} - {None}
    assert labelled == set(CAUSES)


def test_a_cause_is_found_by_the_way_it_is_made_known() -> None:
    """What is recorded as a stall is labelled as one, what only `why` tells is not."""
    for case in CASES.values():
        if case.cause is None:
            assert case.way == "healthy"
        else:
            assert case.way == ("stall" if CAUSES[case.cause].stall else "why"), case.name


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    """Faults in variants, and healthy runs beside them."""
    assert sum(case.cause is not None for case in CASES.values()) >= 30
    assert sum(case.cause is None for case in CASES.values()) >= 10


def test_figures() -> None:
    """A wrong cause, no suggestion, a flag on a healthy run and a case that broke are all wrong; times are those of stalls."""
    right = Outcome(name="a", way="stall", expected="poison", found="poison", seconds=1.0, suggestion="tailrace doctor")
    early = Outcome(
        name="b", way="stall", expected="poison", found="poison", seconds=-2.0, suggestion="tailrace doctor"
    )
    late = Outcome(
        name="c", way="stall", expected="poison", found="poison", seconds=AIM_SECONDS + 1, suggestion="tailrace doctor"
    )
    other = Outcome(name="d", way="why", expected="paused", found="backlog", seconds=9.0, suggestion="tailrace doctor")
    mute = Outcome(name="e", way="why", expected="paused", found="paused")
    calm = Outcome(name="f", way="healthy", expected=None)
    flagged = Outcome(name="g", way="healthy", expected=None, found="poison")
    broken = Outcome(name="h", way="healthy", expected=None, error="it broke")
    result = Result(outcomes=[right, early, late, other, mute, calm, flagged, broken])
    assert [outcome.name for outcome in result.wrong] == ["d", "e", "g", "h"]
    figures = result.summary()
    assert (figures["faults"], figures["right"], figures["wrong"]) == (5, 3, 2)
    assert (figures["healthy"], figures["healthy_flagged"], figures["broken"]) == (3, 1, 1)
    assert (figures["median_seconds"], figures["p99_seconds"]) == (1.0, AIM_SECONDS + 1)
    assert figures["later_than_aim"] == 1
