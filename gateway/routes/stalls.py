"""`/stalls` and `/stats/overview`, from the read model: what stands, and how things are. `/why`, from the store: why."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from tailrace.gateway.responses import document, items
from tailrace.gateway.schemas import check_query, query_flag, query_number
from tailrace.gateway.services import services_of
from tailrace.projections.watchdog import diagnose_open


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get(f"{prefix}/stalls", stalls),
        web.get(f"{prefix}/stats/overview", overview),
        web.get(f"{prefix}/why", why),
    ]


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


async def why(request: web.Request) -> web.Response:
    """Why open runs do or do not move, those first that should have moved longest ago; `open` is how many there are."""
    services = services_of(request)
    check_query(request.query, "limit")
    limit = query_number(request.query, "limit", default=100, least=1, most=500)
    async with services.store_deadline(services.settings.why_timeout_seconds):
        return document(await diagnose_open(services.store, most=limit))
