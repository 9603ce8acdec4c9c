"""Every answer that is an error is a problem document, and none says more than it should."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import Gateway, gateway

MEMBERS = {"type", "title", "status", "detail", "code", "trace_id", "errors"}


async def problem_of(gateway: Gateway, method: str, path: str, **options: Any) -> dict[str, Any]:
    """The problem document that a request is answered with."""
    async with gateway.client.request(method, gateway.url + path, **options) as response:
        assert response.content_type == "application/problem+json", await response.text()
        document: dict[str, Any] = await response.json()
        assert document["status"] == response.status
        assert document["type"] == f"urn:tailrace:problem:{document['code']}"
        assert document["trace_id"] == response.headers["X-Trace-Id"]
        assert set(document) >= MEMBERS
        return document


async def test_nothing_there(served: Gateway) -> None:
    """404 with the path."""
    problem = await problem_of(served, "GET", "/nowhere")
    assert (problem["status"], problem["code"]) == (404, "not-found")
    assert "/nowhere" in problem["detail"]


async def test_a_method_that_is_not_possible(served: Gateway) -> None:
    """405 with the methods that are."""
    async with served.client.delete(f"{served.url}/api/v1/workflows") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) >= {"GET", "POST"}
    assert (await problem_of(served, "DELETE", "/api/v1/workflows"))["code"] == "method-not-allowed"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_too_large(served: Gateway, chunked: bool) -> None:
    """413 over 1 MiB, declared or not; a little under it is accepted."""

    async def chunks(size: int) -> Any:
        for _ in range(size // 1024):
            yield b" " * 1024

    json = {"Content-Type": "application/json"}
    size = 1024 * 1024
    body = chunks(size + 1024) if chunked else BytesIO(b" " * (size + 1))
    problem = await problem_of(served, "POST", "/api/v1/workflows", data=body, headers=json)
    assert (problem["status"], problem["code"]) == (413, "body-too-large")
    fits = b'{"type": "app", "name": "x"}'
    await served.call("POST", "/workflows", data=BytesIO(fits + b" " * (size - len(fits))), headers=json, status=201)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "nonsense"])
async def test_an_encoded_body(served: Gateway, encoding: str) -> None:
    """415 whatever is in it, with what is possible: a small body can't become a large one here."""
    content = b'{"type": "app", "name": "x"}'
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    for body in (content, content + b" " * (4 * 1024 * 1024)):
        data = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}.get(encoding, body)
        if len(data) > 1024 * 1024:
            continue
        async with served.client.post(f"{served.url}/api/v1/workflows", data=data, headers=headers) as response:
            assert (response.status, response.headers["Accept-Encoding"]) == (415, "identity")
            assert (await response.json())["code"] == "unsupported-media-type"
    identity = {**headers, "Content-Encoding": "identity"}
    await served.call("POST", "/workflows", data=content, headers=identity, status=201)


@pytest.mark.parametrize(
    ("path", "known"),
    [("/workflows", "status, type, label, input, q, stalled, limit, cursor"), ("/stalls", "open, workflow_id, limit")],
)
async def test_a_query_field_that_nobody_knows(served: Gateway, path: str, known: str) -> None:
    """422 with a pointer to each, as in a body: a filter that is misspelled must not give everything."""
    problem = await problem_of(served, "GET", f"/api/v1{path}?limit=5&foo=1&a~b/c=")
    assert (problem["status"], problem["code"]) == (422, "invalid-input")
    assert [error["pointer"] for error in problem["errors"]] == ["/foo", "/a~0b~1c"]
    assert known in problem["detail"]


async def test_a_body_that_does_not_arrive(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """408 after a while; a client can't hold a request open for ever."""
    async with gateway(redis_server.url, tmp_path, working=False, read_timeout_seconds=0.05) as served:

        async def stuck() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        problem = await problem_of(
            served, "POST", "/api/v1/workflows", data=stuck(), headers={"Content-Type": "application/json"}
        )
        assert (problem["status"], problem["code"]) == (408, "request-timeout")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "character 0"),
        (b'{"type": "app",\n "name" 1}', "line 2, column 9"),
        (b'{"type": "app"} x', "character 16"),
        (b"\xff", "byte 0"),
        (b"[" * 100_000, "nested"),
    ],
)
async def test_what_is_no_json(served: Gateway, body: bytes, place: str) -> None:
    """400 with the place."""
    problem = await problem_of(
        served, "POST", "/api/v1/workflows", data=body, headers={"Content-Type": "application/json"}
    )
    assert (problem["status"], problem["code"]) == (400, "bad-json")
    assert place in problem["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_not_declared_as_json(served: Gateway, content_type: str) -> None:
    """415: a web page can send these without asking."""
    problem = await problem_of(
        served, "POST", "/api/v1/workflows", data=b'{"type":"app","name":"x"}', headers={"Content-Type": content_type}
    )
    assert (problem["status"], problem["code"]) == (415, "unsupported-media-type")


@pytest.mark.failure(12)
@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"name": ""}, ["/name"]),
        ({"name": "x" * 201}, ["/name"]),
        ({"name": 1, "type": None}, ["/name", "/type"]),
        ({"what": 1, "a/b": 2}, ["/what", "/a~1b"]),
        ({"priority": "urgent"}, ["/priority"]),
        ({"requirements": "x" * 8193}, ["/requirements"]),
        ({"description": "ä" * 4097}, ["/description"]),
        ({"labels": {"a": 1}}, ["/labels"]),
        ({"labels": {"": "x", "k" * 64: "x", "k": "x" * 256}}, ["/labels/", f"/labels/{'k' * 64}", "/labels/k"]),
        ({"labels": {str(number): "" for number in range(33)}}, ["/labels"]),
        ({"input": []}, ["/input"]),
        ({"input": {"a": {"b": "\0"}}}, ["/input/a/b"]),
        ({"input": {"a": [1, 2**70]}}, ["/input/a/1"]),
        ({"name": "nul\0"}, ["/name"]),
    ],
)
async def test_fields_that_do_not_fit(served: Gateway, change: dict[str, Any], pointers: list[str]) -> None:
    """422 that points at all of them at once; nothing is started."""
    body = {"type": "app", "name": "x", **change}
    problem = await problem_of(served, "POST", "/api/v1/workflows", json=body)
    assert (problem["status"], problem["code"]) == (422, "invalid-input")
    assert sorted(error["pointer"] for error in problem["errors"]) == sorted(pointers)


@pytest.mark.failure(12)
@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b'{"\\udfff": 1}', b"[" * 70 + b"]" * 70]
)
async def test_values_that_can_not_be_stored(served: Gateway, value: bytes) -> None:
    """Non-finite numbers, lone surrogates and bottomless nesting are 422."""
    body = b'{"type": "app", "name": "x", "input": {"v": ' + value + b"}}"
    problem = await problem_of(
        served, "POST", "/api/v1/workflows", data=body, headers={"Content-Type": "application/json"}
    )
    assert problem["status"] == 422
    assert problem["errors"][0]["pointer"].startswith("/input")


async def test_a_missing_field_is_pointed_at(served: Gateway) -> None:
    """Each one that is required."""
    problem = await problem_of(served, "POST", "/api/v1/workflows", json={})
    assert [error["pointer"] for error in problem["errors"]] == ["/type", "/name"]
    problem = await problem_of(served, "POST", "/api/v1/workflows", json=[])
    assert [error["pointer"] for error in problem["errors"]] == [""]


async def test_a_fault_of_ours_tells_nothing_of_the_inside(served: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """500 with the trace id; what happened stands in the log."""

    async def broken(workflow_id: str) -> Any:
        raise RuntimeError("secret detail")

    object.__setattr__(served.services, "diagnose", broken)
    run = await served.submit()
    with caplog.at_level(logging.ERROR):
        problem = await problem_of(served, "GET", f"/api/v1/workflows/{run['workflow_id']}/why")
    assert (problem["status"], problem["code"]) == (500, "internal")
    assert "secret" not in str(problem)
    assert any(problem["trace_id"] in record.getMessage() for record in caplog.records)
    assert "secret detail" in caplog.text


async def test_every_answer_has_its_ids_and_security_headers(served: Gateway) -> None:
    """Good or bad, document or stream; a client's request id comes back unless it is unreadable."""
    for path in ("/health/live", "/nowhere", "/api/v1/events"):
        async with served.client.get(served.url + path, headers={"X-Request-Id": "mine-1"}) as response:
            assert response.headers["X-Request-Id"] == "mine-1"
            assert len(response.headers["X-Trace-Id"]) == 32
            assert response.headers["traceparent"][3:35] == response.headers["X-Trace-Id"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Server"] == "tailrace"
    async with served.client.get(f"{served.url}/health/live", headers={"X-Request-Id": "a b"}) as response:
        assert response.headers["X-Request-Id"] != "a b"


async def test_the_access_log_has_no_secrets(served: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Path, status and ids; neither query nor headers, and no line that a client made up."""
    with caplog.at_level(logging.INFO, "tailrace.gateway.access"):
        headers = {"Authorization": "Bearer hush", "X-Request-Id": "r1"}
        async with served.client.get(f"{served.url}/api/v1/a%0Ab?label=hush", headers=headers) as response:
            assert response.status == 404
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tailrace.gateway.access"]
    assert "GET /api/v1/a%0Ab 404" in line
    assert "request r1" in line
    assert "hush" not in line
    assert "\n" not in line


async def test_a_client_that_goes_away_harms_nobody(served: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """A request that is broken off in its middle is no error of ours."""
    host, port = served.url.removeprefix("http://").split(":")
    head = "POST /api/v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for sent in (b"GET /health/live HTTP/1.1\r\n", f"{head}Content-Length: 100\r\n\r\n{{".encode()):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        await writer.drain()
        writer.transport.abort()
    await served.submit()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
