"""A slice of `make chaos`, and that a seed means what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tailrace.core.workflow.definition import compensating_action
from tailrace.infra.parent import PARENT_VARIABLE
from tests.chaos.pipelines import DEFINITIONS, plan_run
from tests.chaos.schedule import schedule

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 400


def test_a_slice_of_chaos(tmp_path: Path) -> None:
    """Some twenty faults of all kinds: nothing acknowledged is lost or done twice, and nothing is left over."""
    told = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--slice", "--json", str(told)],
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
    result = json.loads(told.read_bytes())
    assert not result["failures"]
    assert sum(result["injected"].values()) >= 5
    assert all(result["checked"].values())


def test_a_seed_means_the_same_trial() -> None:
    """The same faults at the same times, and the same runs; another seed gives others."""
    assert schedule(7, 60, postgres_away_seconds=30) == schedule(7, 60, postgres_away_seconds=30)
    assert schedule(7, 60, postgres_away_seconds=30) != schedule(8, 60, postgres_away_seconds=30)
    assert [plan_run(7, number) for number in range(50)] == [plan_run(7, number) for number in range(50)]
    assert plan_run(7, 1) != plan_run(8, 1)


def test_every_fault_ends_in_time() -> None:
    """Whatever the seed: nothing begins late, and nothing lasts longer than the trial."""
    for seed in range(200):
        faults = schedule(seed, 9, postgres_away_seconds=4)
        assert all(fault.at >= 0 and fault.at + fault.lasts <= 9 for fault in faults)
        assert sum(fault.lasts == 4 and fault.kind == "end postgres" for fault in faults) == 1


def test_every_run_has_a_definition() -> None:
    """What is planned is what the definitions know: every scripted stage, or its compensation, is one of theirs."""
    stages = {
        document["name"]: {
            name for stage in document["stages"] for name in (stage["name"], compensating_action(stage["name"]))
        }
        for document in DEFINITIONS
    }
    for number in range(500):
        plan = plan_run(1, number)
        assert set(plan.body["input"]["simulate"]) <= stages[plan.body["type"]]
