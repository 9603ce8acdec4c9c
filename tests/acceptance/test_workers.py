"""Workers that die, and handlers that never end."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime

import pytest

from tests.acceptance.conftest import New
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.scripted import AGENTS, WORKER, chain, hang, script, slow
from tests.acceptance.waiting import until


@pytest.fixture(scope="module")
def installation(new_installation: New) -> Installation:
    """Of its own: its worker is killed."""
    made = new_installation(agents=AGENTS)
    made.apply(chain("trial", 2))
    made.apply(chain("limited", 1, timeout_seconds=1.0, retry="{ max_attempts = 2, backoff_seconds = 0.2 }"))
    return made


def test_task_of_a_killed_worker_runs_again(installation: Installation) -> None:
    """Within seconds the same attempt is delivered once more, to the worker that took the place, and the run completes."""
    run = installation.submit("trial", input=script(s1=slow(2)))
    first = installation.wait_started(run, "s1")
    assert (first["attempt"], first["delivery"]) == (1, 1)
    before = installation.pids()[WORKER]
    os.kill(before, signal.SIGKILL)
    killed_at = time.time()

    def again() -> dict[str, object] | None:
        event = installation.started(run, "s1")
        return event if event is not None and event["delivery"] > 1 else None

    second = until(again, "the second delivery", 15)
    took = datetime.fromisoformat(str(second["time"])).timestamp() - killed_at
    measured(f"a killed worker's task runs again after {took:.2f} s")
    assert took < 15
    assert (second["attempt"], second["delivery"], second["task_id"]) == (1, 2, first["task_id"])
    ended = installation.wait(run)
    assert ended["status"] == "completed"
    assert ended["stall"] is None
    assert installation.pids()[WORKER] != before
    types = [event["type"] for event in installation.events(run)]
    assert types.count("StageCompleted") == 2
    assert "TaskFailed" not in types
    assert "WorkflowStalled" not in types


def test_attempt_over_its_time_is_tried_again_until_the_budget_is_used(installation: Installation) -> None:
    """Two attempts hang; the run fails with the reason, `why` names it, `retry` opens a round in which it completes."""
    run = installation.submit("limited", input=script(s1=[hang(), hang(), slow(0)]))
    failed = installation.wait(run)
    assert failed["status"] == "failed"
    tries = installation.events(run, "TaskFailed")
    assert [event["attempt"] for event in tries] == [1, 2]
    assert {event["error"]["reason"] for event in tries} == {"attempt-timeout"}
    assert tries[0]["retry_at"] is not None
    assert tries[1]["retry_at"] is None
    measured(f"failed with {failed['error']}")
    why = installation.ok("why", run, "--json").json
    assert why["cause"] == "retry-budget"
    assert "retry-budget" in installation.ok("why", run).out

    assert "running" in installation.ok("retry", run).out
    ended = installation.wait(run)
    assert ended["status"] == "completed"
    assert ended["error"] is None
    (reopened,) = installation.events(run, "WorkflowRetried")
    assert reopened["round"] == 2
    third = installation.started(run, "s1")
    assert third is not None
    assert third["attempt"] == 3
