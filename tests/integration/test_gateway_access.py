"""Who may ask, where the gateway listens, and how it says that it can't."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tailrace.core.errors import ConfigurationError
from tailrace.gateway.listen import bind, holder_of, url_of
from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import Gateway, gateway


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Basic s3cret", 401),
        ("Bearer s3cret2", 401),
        ("Bearer s3cret", 200),
        ("bearer  s3cret ", 200),
    ],
)
async def test_a_token_is_asked_for(
    redis_server: EmbeddedRedis, tmp_path: Path, authorization: str | None, status: int
) -> None:
    """With a token set, every route but the probes wants it."""
    async with gateway(redis_server.url, tmp_path, working=False, token="s3cret") as served:
        headers = {} if authorization is None else {"Authorization": authorization}
        for path in ("/api/v1/definitions", "/metrics", "/health"):
            async with served.client.get(served.url + path, headers=headers) as response:
                assert response.status == status
                if status == 401:
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")
                    assert (await response.json())["code"] == "unauthorized"
        async with served.client.post(f"{served.url}/api/v1/nowhere", headers=headers) as response:
            assert response.status == (401 if status == 401 else 404)
        for path in ("/health/live", "/health/ready"):
            async with served.client.get(served.url + path) as response:
                assert response.status == 200


async def test_a_key_belongs_to_its_token(served: Gateway) -> None:
    """Two clients with the same key have two runs."""
    ids = set()
    for token in ("one", "two"):
        headers = {"Idempotency-Key": "k", "Authorization": f"Bearer {token}"}
        run = await served.call("POST", "/workflows", json={"type": "app", "name": "x"}, headers=headers, status=201)
        ids.add(run["workflow_id"])
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8080", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("tail.example:443", 200),
        ("", 403),
        ("[", 403),
    ],
)
async def test_a_rebound_name_is_refused(redis_server: EmbeddedRedis, tmp_path: Path, host: str, status: int) -> None:
    """A gateway on a loopback address answers to loopback names, and to those it was told of."""
    async with (
        gateway(redis_server.url, tmp_path, working=False, allowed_hosts=("tail.example",)) as served,
        served.client.get(f"{served.url}/api/v1/definitions", headers={"Host": host}) as response,
    ):
        assert response.status == status


async def test_a_page_of_another_origin_changes_nothing(served: Gateway) -> None:
    """What a browser sends for another site is refused; its own page may."""
    served.worker.hold("plan")
    run = await served.submit()
    path = f"{served.url}/api/v1/workflows/{run['workflow_id']}/cancel"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        async with served.client.post(path, headers={"Origin": origin}) as response:
            assert response.status == 403
    async with served.client.post(path, headers={"Origin": served.url}) as response:
        assert response.status == 200


@pytest.mark.failure(29)
def test_a_taken_port_is_named_with_its_holder() -> None:
    """The error says which port, and which process has it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} on 127.0.0.1 is taken by process {os.getpid()} \("):
            bind("127.0.0.1", port)


def test_a_free_port_is_chosen_and_told() -> None:
    """Port 0 takes a free one; the URL names it."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        assert holder_of(port).startswith(f"process {os.getpid()} (")
    assert holder_of(port) == ""


@pytest.mark.parametrize(
    ("host", "port", "what"),
    [("no.such.host.invalid", 0, "no address"), ("203.0.113.1", 0, "address of this machine")],
)
def test_an_address_that_can_not_be_had(host: str, port: int, what: str) -> None:
    """A clear error, not a traceback of sockets."""
    with pytest.raises(ConfigurationError, match=what):
        bind(host, port)


def test_every_address_is_reached_by_a_loopback_url() -> None:
    """A gateway on all addresses prints a URL that works here."""
    with bind("0.0.0.0", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
