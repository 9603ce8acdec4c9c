"""Agents, stalls, definitions, health and metrics."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tailrace.core.commands import FlagStall
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import WorkerBeat
from tests.integration.gateway_harness import Gateway
from tests.support.waiting import eventually

FLOW: dict[str, Any] = {
    "name": "flow",
    "stages": [{"name": "a", "agent": "x"}, {"name": "b", "agent": "y", "needs": ["a"]}],
}


async def beat(gateway: Gateway, name: str, *, age_us: int = 0) -> None:
    """Let a worker of `builder` say that it lives."""
    queue = RedisTasks(gateway.store, "builder", name)
    await queue.beat(
        WorkerBeat(agent="builder", name=name, at=0, build="b1", pid=7, host="h", slots=3, in_flight=1, store_id="s")
    )
    if age_us:
        at = await gateway.store.now() - age_us
        await gateway.store.client.command("HSET", gateway.store.keys.worker("builder", name), "at", at)


async def started(gateway: Gateway, workflow_id: str) -> None:
    """Wait until a worker has begun."""
    async with gateway.stream(f"/workflows/{workflow_id}/events") as events:
        await events.until(lambda event: event.name == "TaskStarted")


async def test_agents_show_workers_and_backlog(served: Gateway) -> None:
    """Who lives, what waits and what is in hand; figures of the past are missing while Postgres is down."""
    served.worker.hold("plan")
    run = await served.submit()
    await started(served, run["workflow_id"])
    await beat(served, "w1")
    await beat(served, "w2", age_us=30_000_000)
    agent = await served.call("GET", "/agents/builder", status=200)
    assert (agent["live_workers"], agent["slots"], agent["in_flight"], agent["backlog"]) == (1, 3, 1, 0)
    assert {worker["name"]: worker["live"] for worker in agent["workers"]} == {"w1": True, "w2": False}
    assert (agent["success_rate"], agent["stats"]) == (None, None)
    listed = (await served.call("GET", "/agents", status=200))["items"]
    assert [item["agent"] for item in listed] == ["builder"]
    await served.call("GET", "/agents/nobody", status=404)


async def test_agents_show_how_it_went(projected: Gateway) -> None:
    """With Postgres there is a success rate, of the agent and of each worker."""
    run = await projected.finished()
    await projected.archived(run)
    agent = await projected.call("GET", "/agents/builder", status=200)
    assert agent["success_rate"] == 1.0
    assert agent["stats"]["completed"] == 3
    (worker,) = agent["stats"]["workers"]
    assert (worker["worker"], worker["completed"], worker["deliveries"], worker["success_rate"]) == ("w1", 3, 3, 1.0)
    assert worker["mean_run_seconds"] >= 0


async def test_a_stall_is_shown_beside_the_status(projected: Gateway) -> None:
    """In the run, in the list of stalls and in the overview; over when the run moves."""
    gate = projected.worker.hold("plan")
    run = await projected.submit()
    workflow_id = run["workflow_id"]
    await started(projected, workflow_id)
    command = FlagStall(cause="workers-hung", hop="worker", summary="it stands", suggestion="tailrace doctor")
    snapshot = await projected.commands.execute(workflow_id, command, actor="watchdog")
    shown = await projected.call("GET", f"/workflows/{workflow_id}", status=200)
    assert shown["status"] in {"initiated", "running"}
    assert (shown["stall"]["cause"], shown["stall"]["suggestion"]) == ("workers-hung", "tailrace doctor")
    await projected.archived({"workflow_id": workflow_id, "version": snapshot.state.version})
    (stall,) = (await projected.call("GET", "/stalls", status=200))["items"]
    assert (stall["workflow_id"], stall["cause"], stall["cleared_at"]) == (workflow_id, "workers-hung", None)
    listed = await projected.call("GET", "/workflows?stalled=true", status=200)
    assert listed["items"][0]["stall"] == shown["stall"]
    assert (await projected.call("GET", "/stats/overview", status=200))["stalled"] == 1
    gate.set()
    ended = await projected.wait_status(workflow_id, "completed")
    await projected.archived(ended)
    assert (await projected.call("GET", "/stalls", status=200))["items"] == []
    (over,) = (await projected.call("GET", f"/stalls?open=false&workflow_id={workflow_id}", status=200))["items"]
    assert over["cleared_at"] is not None


async def test_the_overview_counts_by_status(projected: Gateway) -> None:
    """Every status, also those without a run."""
    await projected.archived(await projected.finished())
    overview = await projected.call("GET", "/stats/overview", status=200)
    assert overview["by_status"]["completed"] == 1
    assert set(overview["by_status"]) == {"initiated", "running", "paused", "completed", "failed", "cancelled"}


async def test_a_definition_is_kept_shown_and_used(served: Gateway) -> None:
    """201 for a new version, 200 for the same again; the newest is the one that runs use."""
    first = await served.call("PUT", "/definitions/flow", json=FLOW, status=201)
    assert (first["agents"], first["versions"]) == (["x", "y"], [first["hash"]])
    assert await served.call("PUT", "/definitions/flow", json=FLOW, status=200) == first
    second = await served.call("PUT", "/definitions/flow", json={**FLOW, "description": "new"}, status=201)
    assert second["versions"] == [first["hash"], second["hash"]]
    assert await served.call("GET", "/definitions/flow", status=200) == second
    assert second["definition"]["stages"][1]["needs"] == ["a"]
    listed = (await served.call("GET", "/definitions", status=200))["items"]
    assert [(item["name"], item["hash"]) for item in listed if item["name"] == "flow"] == [("flow", second["hash"])]
    run = await served.submit(type="flow")
    (state,) = await served.store.load_states([run["workflow_id"]])
    assert state is not None
    assert state.definition == second["hash"]
    await served.call("GET", "/definitions/nope", status=404)


async def test_a_definition_is_validated_without_being_kept(served: Gateway) -> None:
    """The answer is what it would be known by; a wrong one is pointed at."""
    valid = await served.call("POST", "/definitions/validate", json=FLOW, status=200)
    assert (valid["valid"], valid["name"]) == (True, "flow")
    await served.call("GET", "/definitions/flow", status=404)
    wrong = {"name": "flow", "stages": [{"name": "a", "agent": "x", "needs": ["z"]}]}
    problem = await served.call("POST", "/definitions/validate", json=wrong, status=422)
    assert [error["pointer"] for error in problem["errors"]] == ["/stages/0/needs/0"]


@pytest.mark.failure(15)
@pytest.mark.parametrize(
    ("name", "document", "pointer"),
    [
        ("other", FLOW, "/name"),
        ("flow", {**FLOW, "stages": []}, "/stages"),
        ("flow", {**FLOW, "extra": 1}, ""),
        ("flow", [], ""),
    ],
)
async def test_a_wrong_definition_is_not_kept(served: Gateway, name: str, document: Any, pointer: str) -> None:
    """422 with a pointer."""
    problem = await served.call("PUT", f"/definitions/{name}", json=document, status=422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    await served.call("GET", f"/definitions/{name}", status=404)


async def test_health_of_a_healthy_gateway(projected: Gateway) -> None:
    """Live, ready, and the facts behind it."""

    async def owned() -> bool:
        async with projected.client.get(f"{projected.url}/health") as response:
            partitions: list[dict[str, Any]] = (await response.json())["partitions"]
            return [partition["owner"] for partition in partitions] == ["o1", "o1"]

    for path, status in (("/health/live", "live"), ("/health/ready", "ready"), ("/health", "ready")):
        async with projected.client.get(projected.url + path) as response:
            assert response.status == 200
            assert (await response.json())["status"] == status
    await eventually(owned)


async def test_metrics_are_openmetrics(served: Gateway) -> None:
    """Every sample belongs to a family that was named; the text ends with its mark."""
    await served.finished()
    await served.call("GET", "/workflows/nope", status=503)
    async with served.client.get(f"{served.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        text = await response.text()
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    samples = [line for line in lines if not line.startswith("#")]
    for sample in samples:
        name = sample.partition("{")[0].partition(" ")[0]
        assert any(name == family or name.startswith(f"{family}_") for family in families), sample
    assert 'tailrace_http_requests_total{method="POST",route="/api/v1/workflows",status="201"} 1' in samples
    assert 'tailrace_tasks_backlog{agent="builder",partition="0"} 0' in samples
    assert "tailrace_store_up 1" in samples
    assert "tailrace_read_model_up 0" in samples


async def test_metrics_tell_how_far_projections_are_behind(projected: Gateway, database_url: str) -> None:
    """Events and seconds for each projection and partition, and runs that are parked."""
    run = await projected.finished()
    await projected.archived(run)
    partition = partition_of(run["workflow_id"], 2)
    admin = await asyncpg.connect(database_url)
    try:
        await admin.execute("UPDATE tailrace.checkpoints SET seq = seq - 3 WHERE projection = 'tasks' AND seq > 0")
        await admin.execute(
            "INSERT INTO tailrace.parked (partition, seq, entry_id, workflow_id, version, type, traceparent, raw, reason)"
            " VALUES (0, 9999, '1-0', 'odd', 1, 'x', '', '', 'odd')"
        )
    finally:
        await admin.close()
    async with projected.client.get(f"{projected.url}/metrics") as response:
        samples = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if not line.startswith("#"))
    assert samples["tailrace_read_model_up"] == "1"
    assert samples[f'tailrace_projection_lag_events{{projection="tasks",partition="{partition}"}}'] == "3"
    assert samples[f'tailrace_projection_lag_events{{projection="stages",partition="{partition}"}}'] == "0"
    assert samples[f'tailrace_projection_lag_seconds{{projection="stages",partition="{partition}"}}'] == "0"
    assert samples['tailrace_projection_parked_runs{partition="0"}'] == "1"
    assert samples['tailrace_projection_parked_runs{partition="1"}'] == "0"
