"""What the gateway answers while Redis or Postgres is away, slow or full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import Gateway, gateway
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import redis_program
from tests.support.waiting import eventually


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server that the test may stop."""
    async with EmbeddedRedis(tmp_path / "redis", server=redis_program()) as server:
        yield server


async def status_of(gateway: Gateway, path: str) -> tuple[int, Any]:
    """Status and document of a GET."""
    async with gateway.client.get(gateway.url + path) as response:
        return response.status, await response.json()


@pytest.mark.hole("H12")
@pytest.mark.hole("H35")
async def test_without_postgres_runs_go_on(served: Gateway) -> None:
    """Runs are started, shown and followed; lists say 503; the gateway stays ready, degraded."""
    run = await served.finished()
    path = f"/workflows/{run['workflow_id']}"
    assert await served.call("GET", path, status=200) == run
    for part in ("/stages", "/artifacts", "/events", "/why"):
        await served.call("GET", path + part, status=200)
    assert await served.call("GET", "/why", status=200) == {"open": 0, "items": []}
    for missing in ("/workflows", "/stalls", "/stats/overview", f"{path}/tasks"):
        async with served.client.get(f"{served.url}/api/v1{missing}") as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["code"] == "read-model-unavailable"
    for path in ("/health/ready", "/health"):
        status, document = await status_of(served, path)
        assert (status, document["status"]) == (200, "degraded")
        assert document["checks"]["read_model"]["status"] == "unavailable"
        assert document["checks"]["store"]["status"] == "ok"


async def test_a_run_that_may_be_archived_is_not_said_to_be_missing(served: Gateway) -> None:
    """What the store does not have may be in the archive: 503, not 404."""
    for part in ("", "/events", "/stages", "/artifacts"):
        problem = await served.call("GET", f"/workflows/00000000-0000-0000-0000-000000000000{part}", status=503)
        assert problem["code"] == "read-model-unavailable"


async def test_without_redis_everything_is_refused_in_bounded_time(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """503 `store-unreachable` with Retry-After; live, not ready; and all is well when Redis is back."""
    async with gateway(own_redis.url, tmp_path, store_timeout_seconds=0.5, working=False) as served:
        run = await served.submit()
        path = f"/workflows/{run['workflow_id']}"
        await own_redis.kill()
        requests = [
            ("POST", "/workflows", {"type": "app", "name": "x"}),
            ("GET", path, None),
            ("POST", f"{path}/cancel", None),
            ("GET", f"{path}/events", None),
            ("GET", "/events", None),
            ("GET", "/agents", None),
            ("GET", "/definitions", None),
        ]
        for method, where, body in requests:
            began = time.monotonic()
            async with served.client.request(method, f"{served.url}/api/v1{where}", json=body) as response:
                assert (response.status, (await response.json())["code"]) == (503, "store-unreachable"), where
                assert int(response.headers["Retry-After"]) > 0
            assert time.monotonic() - began < 2.0
        assert (await status_of(served, "/health/live"))[0] == 200
        for probe in ("/health/ready", "/health"):
            status, document = await status_of(served, probe)
            assert (status, document["status"]) == (503, "unavailable")
        async with served.client.get(f"{served.url}/metrics") as response:
            assert "tailrace_store_up 0" in await response.text()
        await own_redis.start()
        assert (await served.call("GET", path, status=200)) == run
        assert (await status_of(served, "/health/ready"))[0] == 200


async def test_a_redis_that_hangs_is_a_redis_that_is_down(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """A stopped server does not hold a request longer than the limit."""
    async with gateway(own_redis.url, tmp_path, store_timeout_seconds=1.0, working=False) as served:
        run = await served.submit()
        own_redis.pause()
        try:
            began = time.monotonic()
            problem = await served.call("GET", f"/workflows/{run['workflow_id']}", status=503)
            assert problem["code"] == "store-unreachable"
            assert time.monotonic() - began < 2.5
        finally:
            own_redis.resume()


async def test_a_stream_survives_an_outage_of_redis(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """It stays open, and goes on without a gap when Redis is back."""
    async with gateway(own_redis.url, tmp_path, working=False, heartbeat_seconds=0.1) as served:
        run = await served.submit()
        path = f"/workflows/{run['workflow_id']}"
        async with served.stream(f"{path}/events") as events:
            told = await events.until(lambda event: event.comment == "heartbeat")
            await own_redis.kill()
            told += await events.until(lambda event: event.comment == "heartbeat")
            await own_redis.start()

            async def cancelled() -> bool:
                async with served.client.post(f"{served.url}/api/v1{path}/cancel") as response:
                    return response.status in {200, 409}

            await eventually(cancelled)
            told += await events.rest()
    assert [event.version for event in told if event.id] == [1, 2, 3]


async def test_a_full_store_refuses_new_runs(tmp_path: Path) -> None:
    """Over the mark: 503 `store-full` with Retry-After; open runs are commanded as ever."""
    limit = 100 * 1024 * 1024
    async with (
        EmbeddedRedis(tmp_path / "redis", server=redis_program(), maxmemory_bytes=limit) as server,
        gateway(server.url, tmp_path, working=False) as served,
    ):
        accepted: dict[str, Any] = {"json": {"type": "app", "name": "x"}, "headers": {"Idempotency-Key": "k"}}
        run = await served.call("POST", "/workflows", status=201, **accepted)
        used = await served.store.fullness() * limit
        await served.store.client.command("CONFIG", "SET", "maxmemory", int(used / 0.8))

        async def refused() -> bool:
            async with served.client.post(
                f"{served.url}/api/v1/workflows", json={"type": "app", "name": "x"}
            ) as response:
                if response.status == 201:
                    return False
                assert (response.status, (await response.json())["code"]) == (503, "store-full")
                assert int(response.headers["Retry-After"]) > 0
                return True

        await eventually(refused)
        async with served.client.post(f"{served.url}/api/v1/workflows", **accepted) as response:
            assert (response.status, response.headers["Idempotent-Replayed"]) == (201, "true")
            assert (await response.json())["workflow_id"] == run["workflow_id"]
        await served.call("POST", f"/workflows/{run['workflow_id']}/cancel", status=200)


async def test_a_lost_reply_makes_no_second_run(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """The append was carried out and its reply was lost: the client gets its run, once, and is not told of a replay."""
    async with FaultProxy(own_redis.url) as proxy, gateway(proxy.url, tmp_path, working=False) as served:
        proxy.lose_reply(to=b"WorkflowCreated")
        async with served.client.post(
            f"{served.url}/api/v1/workflows", json={"type": "app", "name": "x"}, headers={"Idempotency-Key": "k"}
        ) as response:
            assert response.status == 201
            assert "Idempotent-Replayed" not in response.headers
            run = await response.json()
        assert proxy.faults_done == 1
        page = await served.call("GET", f"/workflows/{run['workflow_id']}/events", status=200)
        assert [item["data"]["version"] for item in page["items"]] == [1, 2]


async def test_waiting_outlives_the_store(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """A run that was started is shown as it was when the store goes away while waiting."""
    async with gateway(own_redis.url, tmp_path, working=False, store_timeout_seconds=0.5) as served:
        waiting = asyncio.ensure_future(
            served.call("POST", "/workflows?wait=1", json={"type": "app", "name": "x"}, status=202)
        )
        await served.wait_listening()
        await own_redis.kill()
        assert (await waiting)["status"] == "initiated"
