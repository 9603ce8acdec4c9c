"""The bytes of spans: one OTLP `ExportTraceServiceRequest` in protobuf, the same for the same spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tailrace.infra.telemetry.span import Attributes, AttributeValue, Span, attributes

SCOPE = "tailrace.engine"

_SAMPLED = 0x01
_KNOWN = int(trace_pb2.SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
_REMOTE = int(trace_pb2.SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)


def encode_spans(spans: Sequence[Span], resource: Mapping[str, str]) -> bytes:
    """A request with these spans, in their order; `resource` says who they are from."""
    scope = trace_pb2.ScopeSpans(scope=InstrumentationScope(name=SCOPE), spans=[_span(span) for span in spans])
    request = ExportTraceServiceRequest(
        resource_spans=[
            trace_pb2.ResourceSpans(resource=Resource(attributes=_pairs(attributes(resource))), scope_spans=[scope])
        ]
    )
    data: bytes = request.SerializeToString(deterministic=True)
    return data


def rejected(response: bytes) -> str:
    """What a collector that took the request says it did not take of it; empty when it took all, or said nothing."""
    answer = ExportTraceServiceResponse()
    try:
        answer.ParseFromString(response)
    except Exception:  # noqa: BLE001  protobuf's own error has no stable place; an unreadable answer says nothing
        return ""
    if not answer.partial_success.rejected_spans:
        return ""
    return f"{answer.partial_success.rejected_spans} spans: {answer.partial_success.error_message}"


def _span(span: Span) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        flags=_SAMPLED | _KNOWN | (_REMOTE if span.remote_parent else 0),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.start * 1000,
        end_time_unix_nano=span.end * 1000,
        attributes=_pairs(span.attributes),
        events=[
            trace_pb2.Span.Event(name=event.name, time_unix_nano=event.at * 1000, attributes=_pairs(event.attributes))
            for event in span.events
        ],
        dropped_events_count=span.dropped_events,
        links=[
            trace_pb2.Span.Link(
                trace_id=bytes.fromhex(link.trace_id),
                span_id=bytes.fromhex(link.span_id),
                attributes=_pairs(link.attributes),
            )
            for link in span.links
        ],
        status=trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.error) if span.error else None,
    )


def _pairs(values: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in values]


def _any(value: AttributeValue) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
