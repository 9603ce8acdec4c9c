"""Server-sent events: how they are spelled, and one stream to one client.

Only durable events carry an `id:`. Every write is bounded in time, so that a client that does not read costs a socket
buffer and nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
from aiohttp import web

from tailrace.core.codec import to_json
from tailrace.core.errors import TailraceError, Undecodable
from tailrace.gateway.cloudevents import Item
from tailrace.gateway.metrics import Metrics
from tailrace.gateway.problems import Refusal
from tailrace.gateway.settings import GatewaySettings

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/event-stream"
HEARTBEAT: Final = b": heartbeat\n\n"
#: What a browser waits before it connects again, in milliseconds.
_RETRY_MS: Final = 1000
_FLUSH_BYTES: Final = 64 * 1024


class Gap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something is not in the stream: why, and what the client should know to go on."""

    reason: str
    detail: str
    workflow_id: str = ""
    first_version: int = 0
    last_version: int = 0
    partition: int | None = None


class ClientGone(Exception):
    """The client closed the connection, or does not read."""


class Interrupted(Exception):
    """The stream has to end before its end. Only a stream that is complete is closed politely."""


def event_frame(item: Item, cursor: str) -> bytes:
    """An event with its cursor, or a comment that names what could not be read."""
    try:
        data = item.json
    except Undecodable as error:
        entry = item.entry
        reason = str(error).replace("\r", " ").replace("\n", " ")
        return f": entry {entry.entry_id} (version {entry.version} of {entry.workflow_id}) is skipped: {reason}\n\n".encode()
    return b"event: %b\nid: %b\ndata: %b\n\n" % (item.entry.type.encode(), cursor.encode(), data)


def gap_frame(gap: Gap) -> bytes:
    """`event: gap`: without an id, because it is no durable event."""
    return b"event: gap\ndata: %b\n\n" % to_json(gap)


class EventStream:
    """A prepared response that frames are written to."""

    def __init__(self, response: web.StreamResponse, settings: GatewaySettings) -> None:
        self._response = response
        self._timeout = settings.write_timeout_seconds
        self._buffer = bytearray()

    async def send(self, frame: bytes) -> None:
        """Queue a frame; what has gathered is written at `flush`, or when it is large."""
        self._buffer += frame
        if len(self._buffer) >= _FLUSH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what has gathered; raises `ClientGone`."""
        if not self._buffer:
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            async with asyncio.timeout(self._timeout):
                await self._response.write(data)
        except TimeoutError:
            raise ClientGone("the client does not read") from None
        except ConnectionError:
            raise ClientGone("the client is gone") from None

    async def heartbeat(self) -> None:
        """A comment, so that both sides learn when the other is gone."""
        await self.send(HEARTBEAT)
        await self.flush()

    async def gap(self, gap: Gap) -> None:
        """Tell the client at once what it will not see."""
        await self.send(gap_frame(gap))
        await self.flush()


@asynccontextmanager
async def open_stream(
    request: web.Request, settings: GatewaySettings, metrics: Metrics
) -> AsyncIterator[tuple[web.StreamResponse, EventStream]]:
    """Start the response; a client that goes away, or does not read, ends the block without an error."""
    if metrics.streams >= settings.max_streams:
        raise Refusal(503, "too-many-streams", f"{settings.max_streams} streams are open", headers={"Retry-After": "5"})
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "X-Accel-Buffering": "no"})
    stream = EventStream(response, settings)
    metrics.streams += 1
    try:
        await response.prepare(request)
        await stream.send(b"retry: %d\n\n" % _RETRY_MS)
        await stream.flush()
        yield response, stream
        await stream.flush()
    except TailraceError as error:
        # The response has begun: all that can be said is why it ends. The client resumes from its cursor.
        log.warning("stream of %s ended: %s", request.rel_url.raw_path, error)
        with suppress(ClientGone):
            await stream.send(f": {error.code}; connect again\n\n".encode())
            await stream.flush()
        _break_off(request)
    except Interrupted:
        _break_off(request)
    except ClientGone:
        if request.transport is not None:
            # Closing politely would wait for a client that does not read.
            request.transport.abort()
    finally:
        metrics.streams -= 1


def _break_off(request: web.Request) -> None:
    """Send what was written, and close without the mark of a complete response: the client knows to connect again."""
    if request.transport is not None:
        request.transport.close()


def wants_stream(request: web.Request) -> bool:
    """True when the client's `Accept` asks for an event stream."""
    return CONTENT_TYPE in request.headers.get("Accept", "")


def cursor_of(request: web.Request) -> str | None:
    """Where the client wants to go on: `Last-Event-ID` of a reconnect before `?after=` of the first request."""
    return request.headers.get("Last-Event-ID") or request.query.get("after") or None
