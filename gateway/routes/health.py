"""Health. Live: the process answers. Ready: a round trip through the store works. The read model only degrades.

With Postgres down the gateway stays ready, else a load balancer would take submissions down with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from tailrace.core.clock import SECOND
from tailrace.core.errors import TailraceError
from tailrace.core.store.port import PartitionFacts
from tailrace.gateway.responses import document
from tailrace.gateway.services import Services, services_of


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How one dependency is: `ok` or `unavailable`, and why."""

    status: str
    detail: str = ""


class ReadyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`ready`, `degraded` (lists and history are missing) or `unavailable`."""

    status: str
    checks: Mapping[str, Check]


class PartitionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A partition's orchestrator and what waits for it."""

    partition: int
    owner: str
    reports: int
    oldest_report_age_seconds: float
    overdue_timers: int
    parked: int


class HealthDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Readiness with the facts behind it."""

    status: str
    checks: Mapping[str, Check]
    instance_id: str
    store_fullness: float | None
    partitions: Sequence[PartitionDocument]
    streams: int


def routes() -> Sequence[web.RouteDef]:
    """The routes of this module; they have no prefix."""
    return [web.get("/health/live", live), web.get("/health/ready", ready), web.get("/health", health)]


async def live(request: web.Request) -> web.Response:
    """The process answers."""
    return document({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Requests can be served."""
    checks = await _checks(services_of(request))
    return document(ReadyDocument(status=_status(checks), checks=checks), status=_http_status(checks))


async def health(request: web.Request) -> web.Response:
    """Readiness, with what a person wants to see next."""
    services = services_of(request)
    checks = await _checks(services)
    facts: list[PartitionFacts] = []
    fullness: float | None = None
    if checks["store"].status == "ok":
        async with services.store_deadline():
            fullness = await services.store.fullness()
            facts = [await services.store.partition_facts(number) for number in range(services.store.partitions)]
    found = HealthDocument(
        status=_status(checks),
        checks=checks,
        instance_id=services.store.instance_id,
        store_fullness=fullness,
        partitions=[_partition(fact) for fact in facts],
        streams=services.metrics.streams,
    )
    return document(found, status=_http_status(checks))


async def _checks(services: Services) -> dict[str, Check]:
    return {"store": await _store(services), "read_model": await _read_model(services)}


async def _store(services: Services) -> Check:
    """A round trip through the keys that a run needs: being connected is not enough."""
    try:
        async with services.store_deadline():
            await services.store.now()
            for partition in range(services.store.partitions):
                await services.store.check_identity(partition)
    except TailraceError as error:
        return Check(status="unavailable", detail=f"{error.code}: {error}")
    return Check(status="ok")


async def _read_model(services: Services) -> Check:
    try:
        await services.queries.checkpoints()
    except TailraceError as error:
        return Check(status="unavailable", detail=f"{error.code}: {error}")
    return Check(status="ok")


def _status(checks: Mapping[str, Check]) -> str:
    if checks["store"].status != "ok":
        return "unavailable"
    return "ready" if checks["read_model"].status == "ok" else "degraded"


def _http_status(checks: Mapping[str, Check]) -> int:
    return 200 if checks["store"].status == "ok" else 503


def _partition(facts: PartitionFacts) -> PartitionDocument:
    return PartitionDocument(
        partition=facts.partition,
        owner=facts.owner,
        reports=facts.reports,
        oldest_report_age_seconds=facts.oldest_report_age_us / SECOND,
        overdue_timers=facts.overdue_timers,
        parked=facts.parked,
    )
