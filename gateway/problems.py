"""Errors as people and programs see them over HTTP: RFC 9457 problem documents.

One table maps each error of `core.errors` to a status and a title. What is not in it is a fault of ours: 500, without a
word about the inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tailrace.core.errors import (
    AlreadyExists,
    CommandRefused,
    ConfigurationError,
    FieldError,
    IdentityMismatch,
    InvalidInput,
    LogDiverged,
    NotFound,
    NotOwner,
    ReadModelUnavailable,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    TailraceError,
    TaskError,
    Undecodable,
    VersionConflict,
)

CONTENT_TYPE: Final = "application/problem+json"

_json = msgspec.json.Encoder()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document. `errors` point into the request; the last two come with a refused command."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    trace_id: str
    errors: Sequence[FieldError] = ()
    workflow_status: str | msgspec.UnsetType = msgspec.UNSET
    allowed_commands: Sequence[str] | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, frozen=True):
    """How an error class looks from outside: HTTP status, title, and when to try again, in seconds."""

    status: int
    title: str
    retry_after_seconds: int | None = None


TABLE: Final[Mapping[type[TailraceError], Row]] = {
    TailraceError: Row(500, "Internal error"),
    InvalidInput: Row(422, "The request was not accepted"),
    NotFound: Row(404, "Not found"),
    AlreadyExists: Row(422, "The key was used for another request"),
    CommandRefused: Row(409, "The workflow's state forbids this"),
    VersionConflict: Row(409, "The workflow moved on meanwhile", 1),
    NotOwner: Row(503, "The partition changes hands", 1),
    StoreUnavailable: Row(503, "The store can't be reached", 2),
    StoreFull: Row(503, "The store is full", 30),
    StoreCorrupt: Row(500, "The store holds what it never should"),
    LogDiverged: Row(503, "The log does not continue where it was read last", 30),
    Undecodable: Row(500, "Stored data can't be read"),
    ReadModelUnavailable: Row(503, "The read model can't be reached", 2),
    IdentityMismatch: Row(500, "Parts of this installation do not fit together"),
    ConfigurationError: Row(500, "A setting can't work"),
    TaskError: Row(500, "A task failed"),
}


class Refusal(Exception):  # it is an answer, not a fault
    """A request that never gets as far as the core: malformed, not allowed, or for nothing that is there."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers: Mapping[str, str] = headers or {}


#: Codes of what aiohttp itself answers, by status.
_HTTP_CODES: Final[Mapping[int, str]] = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "body-too-large",
    415: "unsupported-media-type",
}


def row_of(error: TailraceError) -> Row:
    """The row of the nearest class in the table."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def of_error(error: TailraceError, trace_id: str) -> tuple[Problem, dict[str, str]]:
    """The document for an error of the core, and the headers that go with it."""
    row = row_of(error)
    headers = {} if row.retry_after_seconds is None else {"Retry-After": str(row.retry_after_seconds)}
    extra: dict[str, Any] = {}
    if isinstance(error, InvalidInput):
        extra["errors"] = error.errors
    elif isinstance(error, CommandRefused):
        extra = {"workflow_status": error.status, "allowed_commands": error.allowed}
    return _problem(row.status, error.code, row.title, str(error), trace_id, **extra), headers


def of_refusal(refusal: Refusal, trace_id: str) -> tuple[Problem, dict[str, str]]:
    """The document for a request that was turned away at the edge."""
    title = HTTPStatus(refusal.status).phrase
    problem = _problem(refusal.status, refusal.code, title, refusal.detail, trace_id, errors=refusal.errors)
    return problem, dict(refusal.headers)


def of_status(status: int, detail: str, trace_id: str) -> Problem:
    """The document for an answer of the HTTP server itself: 404, 405, 413, …"""
    return _problem(status, _HTTP_CODES.get(status, f"http-{status}"), HTTPStatus(status).phrase, detail, trace_id)


def internal(trace_id: str) -> Problem:
    """The document for a fault of ours; what it was stands in the log, under the trace id."""
    return _problem(500, "internal", "Internal error", "the gateway's log says more, by this trace id", trace_id)


def encode(problem: Problem) -> bytes:
    """JSON of a problem; text of the client's that is no Unicode is shown escaped."""
    try:
        return _json.encode(problem)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(problem)).encode()


def _problem(status: int, code: str, title: str, detail: str, trace_id: str, **extra: Any) -> Problem:
    return Problem(
        type=f"urn:tailrace:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        trace_id=trace_id,
        **extra,
    )
