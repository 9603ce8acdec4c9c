"""`/agents`: who works, how much waits, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import web

from tailrace.core.clock import SECOND, to_rfc3339, to_us
from tailrace.core.errors import NotFound, ReadModelUnavailable
from tailrace.core.store.port import Queue, WorkerBeat
from tailrace.gateway.responses import document, items
from tailrace.gateway.services import Services, services_of
from tailrace.projections.rows import AgentStats

#: A worker beats each second; one that was silent for this long does not count as live.
LIVE_SECONDS: Final = 5.0


class WorkerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as of its last beat."""

    name: str
    live: bool
    beat_at: str | None
    build: str
    host: str
    pid: int
    slots: int
    in_flight: int
    breakers: Mapping[str, str]


class AgentDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `stats` and `success_rate` are None while the read model can't be asked, or knows nothing yet."""

    agent: str
    live_workers: int
    slots: int
    backlog: int
    in_flight: int
    oldest_wait_seconds: float
    success_rate: float | None
    stats: AgentStats | None
    workers: Sequence[WorkerDocument]


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [web.get(f"{prefix}/agents", list_agents), web.get(f"{prefix}/agents/{{agent}}", show)]


async def list_agents(request: web.Request) -> web.Response:
    """Every agent that a definition names or a worker has joined."""
    services = services_of(request)
    async with services.store_deadline():
        names = await services.store.agents()
        found = await _documents(services, names)
    return items(found)


async def show(request: web.Request) -> web.Response:
    """One agent."""
    services, name = services_of(request), request.match_info["agent"]
    async with services.store_deadline():
        if name not in await services.store.agents():
            raise NotFound("agent", name)
        (found,) = await _documents(services, [name])
    return document(found)


async def _documents(services: Services, names: Sequence[str]) -> list[AgentDocument]:
    now = await services.store.now()
    queues = await services.store.queues(names)
    stats = await _stats(services)
    return [
        _document(
            name,
            [queue for queue in queues if queue.agent == name],
            await services.store.workers(name),
            stats.get(name),
            now,
        )
        for name in names
    ]


async def _stats(services: Services) -> Mapping[str, AgentStats]:
    try:
        return {stats.agent: stats for stats in await services.queries.agent_stats()}
    except ReadModelUnavailable:
        return {}


def _document(
    name: str, queues: Sequence[Queue], beats: Sequence[WorkerBeat], stats: AgentStats | None, now: int
) -> AgentDocument:
    workers = [_worker(beat, now) for beat in beats]
    live = [worker for worker in workers if worker.live]
    return AgentDocument(
        agent=name,
        live_workers=len(live),
        slots=sum(worker.slots for worker in live),
        backlog=sum(queue.backlog for queue in queues),
        in_flight=sum(queue.pending for queue in queues),
        oldest_wait_seconds=max((queue.oldest_age_us for queue in queues), default=0) / SECOND,
        success_rate=None if stats is None else stats.success_rate,
        stats=stats,
        workers=workers,
    )


def _worker(beat: WorkerBeat, now: int) -> WorkerDocument:
    return WorkerDocument(
        name=beat.name,
        live=now - beat.at <= to_us(LIVE_SECONDS),
        beat_at=to_rfc3339(beat.at),
        build=beat.build,
        host=beat.host,
        pid=beat.pid,
        slots=beat.slots,
        in_flight=beat.in_flight,
        breakers=beat.breakers,
    )
