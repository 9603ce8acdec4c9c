"""What happens to every request: who it is, whether it may, how it ends as a document, and one line in the log.

No answer leaves without a request id and a trace id, and none that is an error is anything but a problem document.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tailrace.core.errors import TailraceError
from tailrace.gateway import problems
from tailrace.gateway.access import Access
from tailrace.gateway.metrics import Metrics
from tailrace.gateway.problems import Problem, Refusal
from tailrace.gateway.tracing import REQUEST_TRACE, begin, trace_of

access_log = logging.getLogger("tailrace.gateway.access")
log = logging.getLogger(__name__)

#: What the log shows for a client that went away before its answer; nobody receives it.
CLIENT_GONE: Final = 499

_SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def edge(access: Access, metrics: Metrics) -> Middleware:
    """The only middleware: outermost, so that nothing escapes it."""

    @web.middleware
    async def at_the_edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        begin(request)
        status = CLIENT_GONE
        try:
            response = await _answer(request, handler, access)
            status = response.status
        finally:
            seconds = time.perf_counter() - started
            route = _route(request)
            metrics.request(request.method, route, status, seconds)
            _log_access(request, status, seconds)
        return response

    return at_the_edge


async def _answer(request: web.Request, handler: Handler, access: Access) -> web.StreamResponse:
    trace_id = trace_of(request).trace_id
    try:
        access.check(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _respond(problems.of_status(error.status, _detail(request, error), trace_id), allow)
    except Refusal as refusal:
        return _respond(*problems.of_refusal(refusal, trace_id))
    except TailraceError as error:
        problem, headers = problems.of_error(error, trace_id)
        if problem.status == 500:
            log.exception("%s %s failed, trace %s", request.method, request.rel_url.raw_path, trace_id)
        return _respond(problem, headers)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return web.Response(status=CLIENT_GONE)
        log.exception("%s %s failed, trace %s", request.method, request.rel_url.raw_path, trace_id)
        return _respond(problems.internal(trace_id), {})


def _respond(problem: Problem, headers: dict[str, str]) -> web.Response:
    headers["Content-Type"] = problems.CONTENT_TYPE
    return web.Response(status=problem.status, body=problems.encode(problem), headers=headers)


def _detail(request: web.Request, error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return f"there is nothing at {request.path}"
        case 405:
            return f"{request.method} is not possible at {request.path}"
        case 413:
            return f"the body is larger than {request.client_max_size} bytes"
        case _:
            return error.text or error.reason


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put the ids and the security headers on every response, streams included."""
    headers = response.headers
    # Instead of the versions of what we are made of.
    headers["Server"] = "tailrace"
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    found = request.get(REQUEST_TRACE)
    if found is not None:
        headers.setdefault("traceparent", found.traceparent)
        headers.setdefault("X-Trace-Id", found.trace_id)
        headers.setdefault("X-Request-Id", found.request_id)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical


def _log_access(request: web.Request, status: int, seconds: float) -> None:
    # The path alone: a query may hold what a client searches for, a header its token.
    if access_log.isEnabledFor(logging.INFO):
        found = trace_of(request)
        access_log.info(
            "%s %s %d %.1f ms request %s trace %s",
            request.method,
            request.rel_url.raw_path,
            status,
            seconds * 1000,
            found.request_id,
            found.trace_id,
        )
