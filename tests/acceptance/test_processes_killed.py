"""Every process is killed, one after the other, and at last the supervisor itself: no run notices more than a delay."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.acceptance.conftest import New
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.proc import all_gone, descendants, traces_of
from tests.acceptance.scripted import AGENTS, WORKER, chain, script, slow
from tests.acceptance.waiting import until

STAGES = 12
KILLED = ("gateway", "orchestrator", "projector", "watchdog", WORKER, "redis", "postgres")


@pytest.fixture(scope="module")
def installation(new_installation: New) -> Installation:
    """Of its own: nothing of it is left in peace."""
    made = new_installation(agents=AGENTS)
    made.apply(chain("long", STAGES))
    return made


def check_rows(installation: Installation, run: str) -> None:
    """The read model says of an ended run what the API says, once it has caught up."""
    shown = installation.run(run)

    def caught_up() -> bool:
        found = installation.rows("SELECT version FROM tailrace.workflows WHERE workflow_id = $1", run)
        return bool(found) and found[0]["version"] == shown["version"]

    until(caught_up, "the read model has the whole run")
    (row,) = installation.rows("SELECT * FROM tailrace.workflows WHERE workflow_id = $1", run)
    for field in ("type", "name", "status", "current_stage", "progress_percentage", "priority", "trace_id", "error"):
        assert row[field] == shown[field], field
    outputs = installation.rows("SELECT stage, output FROM tailrace.stages WHERE workflow_id = $1", run)
    assert {row["stage"]: row["output"] for row in outputs} == shown["stage_outputs"]
    versions = installation.rows("SELECT version FROM tailrace.events WHERE workflow_id = $1 ORDER BY version", run)
    assert [row["version"] for row in versions] == list(range(1, shown["version"] + 1))


def test_every_process_killed_in_turn(installation: Installation) -> None:
    """Each is started again under a new pid that the ready file names; the run goes through all of it to its end."""
    work = {f"s{number}": slow(1.5) for number in range(1, STAGES + 1)}
    run = installation.submit("long", input=script(**work))
    installation.wait_started(run, "s1")
    first = installation.pids()
    assert set(KILLED) | {"up"} == set(first)
    for name in KILLED:
        before = installation.pids()[name]
        os.kill(before, signal.SIGKILL)
        began = time.monotonic()
        installation.wait_replaced(name, before)
        measured(f"{name} runs again after {time.monotonic() - began:.1f} s")
    ended = installation.wait(run, seconds=90)
    assert ended["status"] == "completed"
    assert ended["progress_percentage"] == 100
    assert len(ended["stage_outputs"]) == STAGES
    events = installation.events(run)
    assert [event["version"] for event in events] == list(range(1, ended["version"] + 1))
    assert [event["stage"] for event in events if event["type"] == "StageCompleted"] == list(work)
    assert all(event["attempt"] == 1 for event in events if event["type"] == "TaskStarted")
    check_rows(installation, run)
    now = installation.pids()
    assert now["up"] == first["up"]
    assert all(now[name] != first[name] for name in KILLED)
    assert all(process["state"] == "running" for process in installation.states().values())


def test_killed_supervisor_leaves_nothing_and_loses_nothing(installation: Installation) -> None:
    """Nothing outlives it by more than seconds, and the next `up` on the same data takes up the open run."""
    run = installation.submit("long", input=script(s1=slow(2), s2=slow(1)))
    installation.wait_started(run, "s1")
    everything = descendants(installation.pids().values())
    assert len(everything) > len(installation.pids()), "Postgres has children"
    installation.kill()
    took = all_gone(everything)
    measured(f"all {len(everything)} processes are gone {took:.1f} s after the supervisor was killed")
    until(lambda: not traces_of(installation.folder), "no trace is left", 10)
    installation.start()
    measured(f"ready again after {installation.started_seconds:.1f} s")
    ended = installation.wait(run)
    assert ended["status"] == "completed"
    check_rows(installation, run)
