"""`/stalls` and `/stats/overview`: what stands, and how things are. Both from the read model."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from tailrace.gateway.responses import document, items
from tailrace.gateway.schemas import check_query, query_flag, query_number
from tailrace.gateway.services import services_of


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [web.get(f"{prefix}/stalls", stalls), web.get(f"{prefix}/stats/overview", overview)]


async def stalls(request: web.Request) -> web.Response:
    """Findings of the watchdog, newest first: those that stand, or with `open=false` also those that are over."""
    query = request.query
    check_query(query, "open", "workflow_id", "limit")
    found = await services_of(request).queries.stalls(
        open_only=query_flag(query, "open") is not False,
        workflow_id=query.get("workflow_id"),
        limit=query_number(query, "limit", default=100, least=1, most=500),
    )
    return items(found)


async def overview(request: web.Request) -> web.Response:
    """Counts over all runs."""
    return document(await services_of(request).queries.overview())
