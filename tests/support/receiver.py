"""Somebody who is told: an HTTP server on this machine that checks each signature and keeps what came."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

SECRET = "a secret that both sides know"


class Receiver:
    """Answers with `status`, while it is `open`.

    `notices` are the documents that were taken, `refused` how many were not, `ids` all that came.
    """

    def __init__(self) -> None:
        self.status = 204
        self.open = asyncio.Event()
        self.open.set()
        self.headers: dict[str, str] = {}
        self.notices: list[dict[str, Any]] = []
        self.refused = 0
        self.ids: list[str] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """Check it as a receiver has to."""
        body = await request.read()
        check(request.headers["Tailrace-Signature"], body)
        document = json.loads(body)
        assert request.headers["Tailrace-Notice"] == document["id"]
        assert request.content_type == "application/cloudevents+json"
        self.ids.append(document["id"])
        await self.open.wait()
        if 200 <= self.status < 300:
            self.notices.append(document)
        else:
            self.refused += 1
        return web.Response(status=self.status, headers=self.headers)

    def kinds(self) -> list[str]:
        """What was told, in the order in which it came."""
        return [document["data"]["kind"] for document in self.notices]


def check(header: str, body: bytes) -> None:
    """The signature is right and of now; written without a look at the code that signs."""
    parts = dict(part.split("=", 1) for part in header.split(","))
    expected = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, parts["v1"])
    assert abs(time.time() - int(parts["t"])) < 60


@asynccontextmanager
async def receiving(port: int | None = None) -> AsyncIterator[Receiver]:
    """A receiver that is there for the block."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    server = TestServer(app, port=port)
    await server.start_server()
    receiver.url = str(server.make_url("/hook"))
    try:
        yield receiver
    finally:
        await server.close()
