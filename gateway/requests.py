"""What every route needs of a request: its body, and who sent it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tailrace.gateway.problems import Refusal
from tailrace.gateway.services import services_of


async def body_of(request: web.Request) -> bytes:
    """The body of a JSON request; raises `Refusal` (415) for another content type, and 413 for one that is too large.

    Only a declared JSON body is read: a web page of another origin can't send one without asking first. And it is read as it
    was sent: one that is compressed is refused (415), because what is within the limit must stay so.
    """
    limit = request.client_max_size
    if request.content_length is not None and request.content_length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=request.content_length)
    if not (request.content_type == "application/json" or request.content_type.endswith("+json")):
        raise Refusal(415, "unsupported-media-type", "send the body with `Content-Type: application/json`")
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        detail = "send the body as it is, without `Content-Encoding`"
        raise Refusal(415, "unsupported-media-type", detail, headers={"Accept-Encoding": "identity"})
    try:
        async with asyncio.timeout(services_of(request).settings.read_timeout_seconds):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, "request-timeout", "the body did not arrive in time") from None


async def optional_body_of(request: web.Request) -> bytes:
    """The same, where a body may be left out: nothing is `{}`."""
    if not request.body_exists:
        return b"{}"
    return await body_of(request)


def bearer_of(request: web.Request) -> str:
    """The bearer token of the request, "" when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
