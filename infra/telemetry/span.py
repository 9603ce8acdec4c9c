"""A finished span as the engine makes it: plain values with an order of their own, so that equal spans are equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec

AttributeValue = str | bool | int | float

#: Sorted by key.
Attributes = tuple[tuple[str, AttributeValue], ...]

#: Text in an attribute is cut here: a collector refuses spans that carry documents.
TEXT_LIMIT = 1_000

#: Events of one span are cut here, as the SDK does; how many were dropped is said.
EVENT_LIMIT = 128


class SpanKind(IntEnum):
    """As OTLP numbers them."""

    INTERNAL = 1
    PRODUCER = 4
    CONSUMER = 5


class SpanEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened within a span, at microseconds since the epoch."""

    name: str
    at: int
    attributes: Attributes = ()


class SpanLink(msgspec.Struct, frozen=True, kw_only=True):
    """A span that has to do with this one without being its parent; ids in hex."""

    trace_id: str
    span_id: str
    attributes: Attributes = ()


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span; ids in hex, times in microseconds since the epoch.

    `parent_id` is empty for a root. `error` is the reason of a failure, empty for none. `sampled` is what the caller's
    `traceparent` said. `remote_parent`: the parent belongs to another process.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: SpanKind
    start: int
    end: int
    attributes: Attributes = ()
    events: tuple[SpanEvent, ...] = ()
    dropped_events: int = 0
    links: tuple[SpanLink, ...] = ()
    error: str = ""
    sampled: bool = True
    remote_parent: bool = False


def attributes(values: Mapping[str, AttributeValue | None]) -> Attributes:
    """The values in order of their keys; None and empty text are left out, long text is cut."""
    return tuple(
        (key, value[:TEXT_LIMIT] if isinstance(value, str) else value)
        for key, value in sorted(values.items())
        if value is not None and value != ""
    )
