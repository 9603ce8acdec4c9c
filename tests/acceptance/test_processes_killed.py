"""Every process is killed, one after the other, and at last the supervisor itself: no run notices more than a delay."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.proc import all_gone, descendants, traces_of
from tests.acceptance.scripted import LONG, WORKER, script, slow
from tests.acceptance.waiting import until

KILLED = ("gateway", "orchestrator", "projector", "watchdog", WORKER, "redis", "postgres")


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


@pytest.mark.failure(20)
def test_every_process_killed_in_turn(tormented: Installation) -> None:
    """Each is started again under a new pid that the ready file names; the run goes through all of it to its end."""
    work = {f"s{number}": slow(1.5) for number in range(1, LONG + 1)}
    run = tormented.submit("long", input=script(**work))
    tormented.wait_started(run, "s1")
    first = tormented.pids()
    assert set(KILLED) | {"up"} == set(first)
    for name in KILLED:
        before = tormented.pids()[name]
        os.kill(before, signal.SIGKILL)
        began = time.monotonic()
        tormented.wait_replaced(name, before)
        measured(f"{name} runs again after {time.monotonic() - began:.1f} s")
    ended = tormented.wait(run, seconds=90)
    assert ended["status"] == "completed"
    assert ended["progress_percentage"] == 100
    assert len(ended["stage_outputs"]) == LONG
    events = tormented.events(run)
    assert [event["version"] for event in events] == list(range(1, ended["version"] + 1))
    assert [event["stage"] for event in events if event["type"] == "StageCompleted"] == list(work)
    assert all(event["attempt"] == 1 for event in events if event["type"] == "TaskStarted")
    check_rows(tormented, run)
    now = tormented.pids()
    assert now["up"] == first["up"]
    assert all(now[name] != first[name] for name in KILLED)
    assert all(process["state"] == "running" for process in tormented.states().values())


@pytest.mark.failure(20)
def test_killed_supervisor_leaves_nothing_and_loses_nothing(tormented: Installation) -> None:
    """Nothing outlives it by more than seconds, and the next `up` on the same data takes up the open run."""
    run = tormented.submit("long", input=script(s1=slow(2), s2=slow(1)))
    tormented.wait_started(run, "s1")
    everything = descendants(tormented.pids().values())
    assert len(everything) > len(tormented.pids()), "Postgres has children"
    tormented.kill()
    took = all_gone(everything)
    measured(f"all {len(everything)} processes are gone {took:.1f} s after the supervisor was killed")
    until(lambda: not traces_of(tormented.folder), "no trace is left", 10)
    tormented.start()
    measured(f"ready again after {tormented.started_seconds:.1f} s")
    ended = tormented.wait(run)
    assert ended["status"] == "completed"
    check_rows(tormented, run)
