"""What people do to a run from the command line, and what they are told when it can't be done."""

from __future__ import annotations

import time

import pytest

from tailrace.infra.client import GatewayError
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.proc import traces_of
from tests.acceptance.scripted import AGENT, chain, hang, script, slow
from tests.acceptance.waiting import until


def in_flight(installation: Installation) -> int:
    """How many tasks workers hold, by the fleet's own account."""
    items = installation.gateway.get("/agents")["items"]
    return sum(item["in_flight"] for item in items if item["agent"] == AGENT)


def test_pause_resume_and_cancel(shared: Installation) -> None:
    """Each does what it says; a command that the state forbids is refused with those that it allows."""
    run = shared.submit("trial", input=script(s1=hang()))
    shared.wait_started(run, "s1")
    assert "is paused" in shared.ok("pause", run, "--reason", "lunch").out
    assert shared.run(run)["status"] == "paused"
    assert shared.ok("why", run, "--json").json["cause"] == "paused"

    refused = shared.cli("pause", run)
    assert refused.code == 1
    assert "command-refused" in refused.err
    assert "allowed now: " in refused.err
    assert "resume" in refused.err
    with pytest.raises(GatewayError) as caught:
        shared.gateway.post(f"/workflows/{run}/pause")
    problem = caught.value.problem
    assert (problem["status"], problem["code"], problem["workflow_status"]) == (409, "command-refused", "paused")
    assert "resume" in problem["allowed_commands"]

    assert shared.ok("resume", run, "--json").json["status"] == "running"
    until(lambda: in_flight(shared) == 1, "the worker says that it has the task")
    began = time.monotonic()
    assert "is cancelled" in shared.ok("cancel", run, "--reason", "wrong").out
    until(lambda: in_flight(shared) == 0, "the handler has ended", 15)
    measured(f"a cancelled handler has ended {time.monotonic() - began:.1f} s after the command was typed")
    assert shared.events(run)[-1]["type"] in {"WorkflowCancelled", "ReportIgnored"}
    assert shared.run(run)["status"] == "cancelled"

    refused = shared.cli("resume", run, "--json")
    assert refused.code == 1
    assert "cancelled" in refused.err


@pytest.mark.failure(32)
def test_run_without_worker_is_explained_and_flagged(shared: Installation) -> None:
    """`why` and the watchdog name the agent that nobody plays."""
    shared.apply(chain("orphan", 1, agent="nobody", expect_start_seconds=1.0))
    run = shared.submit("orphan")
    stall = until(lambda: shared.run(run)["stall"], "the watchdog's finding", 30)
    assert stall["cause"] == "no-worker", stall
    assert "nobody" in stall["summary"]
    why = shared.ok("why", run, "--json").json
    assert (why["cause"], why["healthy"]) == ("no-worker", False)
    assert why["suggestion"]
    said = shared.ok("why", run).out
    assert "no-worker" in said
    assert "nobody" in said
    until(lambda: run in shared.ok("stalls", "--json").out, "it is listed among the stalls", 30)
    shared.ok("cancel", run)


def test_submit_waits_and_exits_by_the_outcome(shared: Installation) -> None:
    """`--wait` is for scripts: 0 for a completed run, 1 for a failed one."""
    file = shared.folder / "input.json"
    file.write_text('{"simulate": {"s1": [{"do": "fail", "reason": "on-purpose"}]}}')
    failed = shared.cli("submit", "trial", "--name", "fails", "--input", str(file), "--wait", "--json")
    assert failed.code == 1, failed
    assert (failed.json["status"], failed.json["error"]["reason"]) == ("failed", "on-purpose")
    done = shared.ok("submit", "trial", "--name", "works", "--label", "team=red", "--wait", "--json").json
    assert done["status"] == "completed"
    until(
        lambda: (
            [item["workflow_id"] for item in shared.ok("list", "--label", "team=red", "--json").json["items"]]
            == [done["workflow_id"]]
        ),
        "it is found by its label",
    )


def test_unknown_things_are_clear_errors(shared: Installation) -> None:
    """Exit code 1 and one message that names what is unknown, and what there is."""
    unknown = shared.cli("submit", "rocket", "--name", "x")
    assert unknown.code == 1
    assert "no definition 'rocket'" in unknown.err
    assert "app, " in unknown.err
    missing = shared.cli("show", "0199a0e2-0000-7000-8000-000000000000")
    assert missing.code == 1
    assert "not-found" in missing.err
    agent = shared.cli("worker", "nobody")
    assert agent.code == 1
    assert "no agent is called 'nobody'" in agent.err
    assert "scaffold" in agent.err
    module = shared.cli("worker", "--app", "no.such.module:agent")
    assert module.code == 1
    assert "no.such.module" in module.err
    for done in (unknown, missing, agent, module):
        assert "Traceback" not in done.err
        assert done.out == ""


def test_second_up_on_the_same_data_is_told_who_has_it(shared: Installation) -> None:
    """It names the process that holds the directory, and does not disturb it."""
    before = shared.pids()
    second = shared.cli("up", "--port", "0")
    assert second.code == 1
    assert f"in use by process {before['up']}" in second.err
    assert "Traceback" not in second.err
    assert shared.pids() == before
    assert "completed" in shared.ok("submit", "trial", "--name", "after", "--wait", "--json").out, "found as before"


@pytest.mark.failure(29)
def test_taken_port_is_named_with_its_holder(shared: Installation) -> None:
    """`up` on a port that somebody has ends with the port and the process, and leaves nothing running."""
    port = shared.ready()["url"].rpartition(":")[2]
    other = shared.folder / "other"
    began = time.monotonic()
    done = shared.cli("up", "--port", port, "--agents", "", "--data-dir", str(other))
    measured(f"a taken port is said after {time.monotonic() - began:.1f} s")
    assert done.code == 1
    assert f"port {port} " in done.err
    assert f"process {shared.pids()['gateway']}" in done.err
    assert not traces_of(other)


def test_slow_run_is_not_flagged(shared: Installation) -> None:
    """A handler that takes its time within its limits is healthy, and `why` says so."""
    run = shared.submit("trial", input=script(s1=slow(3)))
    shared.wait_started(run, "s1")
    why = shared.ok("why", run, "--json").json
    assert (why["cause"], why["healthy"]) == (None, True)
    assert shared.wait(run)["status"] == "completed"
    assert not shared.events(run, "WorkflowStalled")
