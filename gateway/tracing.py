"""The trace of one request: the current SERVER span when there is one, else the caller's `traceparent`, else a new one."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from aiohttp import web
from opentelemetry import trace

from tailrace.core.ids import new_command_id, new_traceparent, trace_id_of

_REQUEST_ID: Final = re.compile(r"^[A-Za-z0-9._:/+=-]{1,128}$")


class RequestTrace(msgspec.Struct, frozen=True):
    """What a request is known by, here and in every process that works for it."""

    request_id: str
    traceparent: str
    trace_id: str


REQUEST_TRACE: web.RequestKey[RequestTrace] = web.RequestKey("request_trace", RequestTrace)


def begin(request: web.Request) -> RequestTrace:
    """Work out, once, what this request is known by; an unreadable id of the client's is replaced."""
    parent: str = _current_span() or request.headers.get("traceparent") or ""
    trace_id = trace_id_of(parent)
    if trace_id is None:
        parent = new_traceparent()
        trace_id = parent[3:35]
    request_id = request.headers.get("X-Request-Id", "")
    if not _REQUEST_ID.match(request_id):
        request_id = new_command_id()
    found = request[REQUEST_TRACE] = RequestTrace(request_id, parent, trace_id)
    return found


def trace_of(request: web.BaseRequest) -> RequestTrace:
    """The trace that `begin` worked out."""
    return request[REQUEST_TRACE]


def _current_span() -> str | None:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
