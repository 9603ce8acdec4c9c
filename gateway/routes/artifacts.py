"""`GET /artifacts/{sha256}`: what a stage has stored. It comes from agents, so a browser must never run it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from tailrace.gateway.services import services_of


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [web.get(f"{prefix}/artifacts/{{sha256}}", content)]


async def content(request: web.Request) -> web.Response:
    """The bytes, as a download without a type of its own."""
    sha256 = request.match_info["sha256"]
    etag = f'"{sha256}"'
    services = services_of(request)
    data = await asyncio.to_thread(services.artifacts.get, sha256)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{sha256}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
        # Named by content: it can't change.
        "Cache-Control": "private, max-age=31536000, immutable",
        "ETag": etag,
    }
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, headers=headers)
