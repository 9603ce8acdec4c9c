"""Spans as the JSON file that Jaeger's page takes under "Upload"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tailrace.infra.telemetry.exporter import SERVICE_NAME
from tailrace.infra.telemetry.span import Attributes, AttributeValue, Span

_KINDS: Final = {1: "internal", 4: "producer", 5: "consumer"}
_RECONSTRUCTED: Final = ("tailrace.reconstructed", True)


def jaeger_json(spans: Sequence[Span]) -> bytes:
    """The document, one trace after the other; the same bytes for the same spans."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    processes = {"engine": {"serviceName": SERVICE_NAME}, "worker": {"serviceName": "tailrace-worker"}}
    data = [
        {"traceID": trace, "spans": [_span(span) for span in found], "processes": processes}
        for trace, found in traces.items()
    ]
    return msgspec.json.encode({"data": data}, order="deterministic")


def _span(span: Span) -> dict[str, Any]:
    tags = _tags(span.attributes) + _tags((("span.kind", _KINDS[span.kind]),))
    if span.error:
        tags += _tags((("error", True), ("otel.status_code", "ERROR"), ("otel.status_description", span.error)))
    references = [_reference("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    references += [_reference("FOLLOWS_FROM", link.trace_id, link.span_id) for link in span.links]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start,
        "duration": span.end - span.start,
        "tags": tags,
        "logs": [
            {"timestamp": event.at, "fields": _tags((("event", event.name), *event.attributes))}
            for event in span.events
        ],
        "processID": "worker" if _RECONSTRUCTED in span.attributes else "engine",
    }


def _reference(kind: str, trace_id: str, span_id: str) -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def _tags(values: Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "type": _type(value), "value": value} for key, value in values]


def _type(value: AttributeValue) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int64"
        case float():
            return "float64"
        case str():
            return "string"
