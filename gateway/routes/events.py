"""Events of one run and of all runs: as JSON pages, and as server-sent events."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from tailrace.core.errors import ReadModelUnavailable, Undecodable
from tailrace.gateway import cursors
from tailrace.gateway.cloudevents import CloudEvent, source_of, to_cloud_event
from tailrace.gateway.cursors import RunCursor
from tailrace.gateway.history import History, Missing, RunStatus
from tailrace.gateway.problems import Refusal
from tailrace.gateway.responses import document, workflow_id_of
from tailrace.gateway.schemas import query_number
from tailrace.gateway.services import Services, services_of
from tailrace.gateway.sse import cursor_of, open_stream, wants_stream
from tailrace.gateway.streams import Filter, LogStream, RunStream, epoch_of


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is there and can't be read."""

    version: int
    entry_id: str
    reason: str


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events in order of version; `next_cursor` is None at the run's present end."""

    items: Sequence[CloudEvent]
    next_cursor: str | None
    skipped: Sequence[Skipped]


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get(f"{prefix}/workflows/{{workflow_id}}/events", of_run, allow_head=False),
        web.get(f"{prefix}/events", of_all, allow_head=False),
    ]


async def of_run(request: web.Request) -> web.StreamResponse:
    """A run's events: a page of JSON, or a stream when `Accept` asks for one."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    after = cursor_of(request)
    cursor = RunCursor("", 0) if after is None else cursors.decode_run(after)
    async with services.store_deadline():
        run = await History(services.store, services.queries).status(workflow_id)
        epoch = epoch_of([await services.store.head(run.partition)])
    if not cursor.epoch and cursor.version > run.version:
        detail = f"`after` is version {cursor.version}, and the run is at version {run.version}"
        raise Refusal(400, "bad-cursor", detail)
    if not wants_stream(request):
        return await _page(request, services, run, cursor, epoch)
    if run.ended and cursor == RunCursor(epoch, run.version, cursor.entry_id):
        # Nothing will follow: this status tells a browser not to connect again.
        return web.Response(status=204)
    async with open_stream(request, services.settings, services.metrics) as (response, stream):
        await RunStream(services, run, epoch, cursor).write(stream)
    return response


async def _page(
    request: web.Request, services: Services, run: RunStatus, cursor: RunCursor, epoch: str
) -> web.Response:
    limit = query_number(request.query, "limit", default=100, least=1, most=1000)
    if cursor.epoch not in {"", epoch}:
        raise Refusal(410, "cursor-gone", "the cursor is of another log; read again from the start")
    if cursor.version > run.version:
        detail = f"the log went back from version {cursor.version} to {run.version}; read again from the start"
        raise Refusal(410, "cursor-gone", detail)
    found: list[CloudEvent] = []
    skipped: list[Skipped] = []
    last = RunCursor(epoch, cursor.version, cursor.entry_id)
    until = min(run.version, cursor.version + limit)
    history = History(services.store, services.queries)
    async with services.store_deadline():
        async for page in history.read(run, cursor.version, entry_id=cursor.entry_id, until=until):
            if isinstance(page, Missing):
                if page.unavailable:
                    raise ReadModelUnavailable(f"versions {page.first} to {page.last} are in the archive only")
                continue
            for entry in page:
                last = RunCursor(epoch, entry.version, entry.entry_id)
                try:
                    found.append(to_cloud_event(entry, source_of(services.store)))
                except Undecodable as error:
                    skipped.append(Skipped(version=entry.version, entry_id=entry.entry_id, reason=str(error)))
    more = last.version < run.version
    return document(EventPage(items=found, next_cursor=cursors.encode(last) if more else None, skipped=skipped))


async def of_all(request: web.Request) -> web.StreamResponse:
    """The stream of all runs, from a cursor on or from now."""
    services = services_of(request)
    if not wants_stream(request) and "Accept" in request.headers and "*/*" not in request.headers["Accept"]:
        raise Refusal(406, "not-acceptable", "this is a stream: ask with `Accept: text/event-stream`")
    after = cursor_of(request)
    cursor = None if after is None else cursors.decode_log(after, services.store.partitions)
    wanted = Filter.read(request.query.get("workflow_id"), request.query.getall("type", []))
    stream_of_all = LogStream(services, wanted, cursor)
    async with services.store_deadline():
        await stream_of_all.begin()
    async with open_stream(request, services.settings, services.metrics) as (response, stream):
        await stream_of_all.write(stream)
    return response
