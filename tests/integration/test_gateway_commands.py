"""Commands of people: cancel, pause, resume, retry."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.core.events import Failure
from tests.integration.gateway_harness import Gateway


async def test_cancel(served: Gateway) -> None:
    """The run is cancelled, and the answer is the run after it."""
    served.worker.hold("plan")
    run = await served.submit()
    path = f"/workflows/{run['workflow_id']}"
    cancelled = await served.call("POST", f"{path}/cancel", json={"reason": "not needed"}, status=200)
    assert cancelled["status"] == "cancelled"
    assert await served.call("GET", path, status=200) == cancelled
    (event,) = (await served.call("GET", f"{path}/events?after={cancelled['version'] - 1}", status=200))["items"]
    assert event["data"]["reason"] == "not needed"


async def test_pause_and_resume(served: Gateway) -> None:
    """A paused run says so and goes on when it is told to."""
    gate = served.worker.hold("plan")
    run = await served.submit()
    path = f"/workflows/{run['workflow_id']}"
    assert (await served.call("POST", f"{path}/pause", status=200))["status"] == "paused"
    resumed = await served.call("POST", f"{path}/resume", status=200)
    assert resumed["status"] in {"initiated", "running"}
    gate.set()
    await served.wait_status(run["workflow_id"], "completed")


async def test_retry_from_a_stage(served: Gateway) -> None:
    """A failed run begins a new round; the stages before keep what they gave."""
    served.worker.answers["build"] = Failure(reason="lint")
    failed = await served.finished()
    del served.worker.answers["build"]
    path = f"/workflows/{failed['workflow_id']}"
    retried = await served.call("POST", f"{path}/retry", json={"from_stage": "build"}, status=200)
    assert (retried["status"], retried["error"]) == ("running", None)
    await served.wait_status(failed["workflow_id"], "completed")
    assert served.worker.taken == ["plan", "build", "build", "ship"]


@pytest.mark.parametrize("command", ["cancel", "pause", "resume"])
async def test_what_the_state_forbids_is_said_with_what_it_allows(served: Gateway, command: str) -> None:
    """409 with the state of the run and the commands that are possible."""
    run = await served.finished()
    problem = await served.call("POST", f"/workflows/{run['workflow_id']}/{command}", status=409)
    assert problem["code"] == "command-refused"
    assert problem["workflow_status"] == "completed"
    assert problem["allowed_commands"] == ["retry"]


async def test_retry_needs_something_to_retry(served: Gateway) -> None:
    """A completed run wants a stage to start from."""
    run = await served.finished()
    problem = await served.call("POST", f"/workflows/{run['workflow_id']}/retry", status=409)
    assert "needs from_stage" in problem["detail"]
    assert problem["allowed_commands"] == ["retry"]
    await served.call("POST", f"/workflows/{run['workflow_id']}/retry", json={"from_stage": "nope"}, status=422)


@pytest.mark.failure(21)
async def test_a_command_twice_at_once_has_one_effect(served: Gateway) -> None:
    """Of several cancels one is carried out, the others find the run cancelled."""
    served.worker.hold("plan")
    run = await served.submit()

    async def cancel() -> int:
        async with served.client.post(f"{served.url}/api/v1/workflows/{run['workflow_id']}/cancel") as response:
            return response.status

    statuses = await asyncio.gather(*(cancel() for _ in range(10)))
    assert sorted(statuses) == [200, *[409] * 9]


@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "retry"])
async def test_a_command_for_no_run(projected: Gateway, command: str) -> None:
    """404."""
    await projected.call("POST", f"/workflows/00000000-0000-0000-0000-000000000000/{command}", status=404)


@pytest.mark.parametrize(
    ("command", "body", "pointer"),
    [
        ("cancel", {"why": "x"}, "/why"),
        ("cancel", {"reason": 1}, "/reason"),
        ("cancel", {"reason": "x" * 1001}, "/reason"),
        ("resume", {"reason": "x"}, "/reason"),
        ("retry", {"from_stage": ""}, "/from_stage"),
        ("pause", {"reason": "\0"}, "/reason"),
    ],
)
async def test_a_body_that_does_not_fit(served: Gateway, command: str, body: dict[str, object], pointer: str) -> None:
    """422 that points at the field, and nothing happens."""
    served.worker.hold("plan")
    run = await served.submit()
    problem = await served.call("POST", f"/workflows/{run['workflow_id']}/{command}", json=body, status=422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert (await served.call("GET", f"/workflows/{run['workflow_id']}", status=200))["status"] != "cancelled"
