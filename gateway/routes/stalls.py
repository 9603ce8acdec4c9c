"""`/stalls` and `/stats/overview`: what stands, and how things are. Both from the read model."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from tailrace.gateway.responses import document, items
from tailrace.gateway.services import services_of


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [web.get(f"{prefix}/stalls", stalls), web.get(f"{prefix}/stats/overview", overview)]


async def stalls(request: web.Request) -> web.Response:
    """Every run that is stalled now."""
    return items(await services_of(request).queries.stalls())


async def overview(request: web.Request) -> web.Response:
    """Counts over all runs."""
    return document(await services_of(request).queries.overview())
