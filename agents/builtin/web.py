"""One HTTP request to an app on this machine, off the event loop. No proxy, no redirect, no keep-alive: what is
measured and checked is the app."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

BODY_LIMIT_BYTES = 4 * 1024 * 1024


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, and how long it took."""

    status: int
    content_type: str
    body: bytes
    milliseconds: float

    def json(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")


async def request(
    url: str, *, method: str = "GET", body: object = None, raw: bytes | None = None, timeout_seconds: float = 5.0
) -> Answer:
    """Send a request, with `body` as JSON or `raw` as it is; raises OSError if there is no answer in HTTP."""
    data = raw if raw is not None or body is None else json.dumps(body).encode()
    return await asyncio.to_thread(_request, url, method, data, timeout_seconds)


def _request(url: str, method: str, data: bytes | None, timeout_seconds: float) -> Answer:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)
    started = time.perf_counter()
    try:
        headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if data is not None else {})
        connection.request(method, parts.path or "/", body=data, headers=headers)
        answer = connection.getresponse()
        content = answer.read(BODY_LIMIT_BYTES)
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} did not answer in HTTP: {error!r}") from error
    finally:
        connection.close()
    return Answer(
        status=answer.status,
        content_type=answer.headers.get("Content-Type", ""),
        body=content,
        milliseconds=round((time.perf_counter() - started) * 1000, 2),
    )
