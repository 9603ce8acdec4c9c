"""The trace of one run out of its records: as a tree to show, as a file for Jaeger, or sent to a collector now.

The workers' spans are not in the log. What the log says of them (who began when, under which span id, and when the last
report came) is enough to put a `process` span in their place, marked `tailrace.reconstructed`, so that the tree is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.core.events import TaskDispatched, TaskFailed, TaskStarted
from tailrace.core.ids import span_id, span_id_of, trace_id_of
from tailrace.core.workflow.history import Record
from tailrace.infra.telemetry.exporter import SpanExporter
from tailrace.infra.telemetry.settings import TelemetrySettings
from tailrace.infra.telemetry.span import Span, SpanKind, attributes
from tailrace.infra.telemetry.spans import SpanEncoder

#: Of spans with equal times the outer one comes first.
_DEPTH: Final = {
    name: depth for depth, name in enumerate(("workflow", "stage", "compensate", "send", "process", "apply"))
}


class SpanNode(msgspec.Struct, frozen=True, kw_only=True):
    """A span and what is under it, in order of time."""

    span: Span
    children: tuple[SpanNode, ...] = ()


class TraceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The trace of a run. Under `roots` is everything; the request's own span is known to the collector alone."""

    workflow_id: str
    trace_id: str
    roots: tuple[SpanNode, ...]
    spans: tuple[Span, ...]


def run_spans(records: Sequence[Record], *, at: int | None = None, reconstruct: bool = True) -> list[Span]:
    """The spans of one run, from its records in order of version, by their beginning.

    With `at` (microseconds since the epoch) also those that are still open, as if they ended then, with the status
    `running`. With `reconstruct`, `process` spans of workers that traced as well. Raises `HistoryMissing` for a gap.
    """
    encoder = SpanEncoder(keep_ended=True)
    spans = [span for record in records for span in encoder.feed(record)]
    if at is not None:
        spans += encoder.open_spans(at)
    if reconstruct:
        spans += _processes(records, spans)
    return sorted(spans, key=lambda span: (span.start, -span.end, _DEPTH[span.name.partition(" ")[0]]))


def trace_document(records: Sequence[Record], *, at: int | None = None) -> TraceDocument:
    """The trace of one run as a tree; `at` as in `run_spans`. No records give an empty one."""
    spans = run_spans(records, at=at)
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def node(span: Span) -> SpanNode:
        return SpanNode(span=span, children=tuple(node(child) for child in children.get(span.span_id, ())))

    return TraceDocument(
        workflow_id=records[0].workflow_id if records else "",
        trace_id=spans[0].trace_id if spans else "",
        roots=tuple(node(span) for span in children.get("", ())),
        spans=tuple(spans),
    )


async def export_run(records: Sequence[Record], settings: TelemetrySettings, *, reconstruct: bool = False) -> int:
    """Send the ended spans of one run to a collector, once; gives their number. Raises `sender.NotDelivered`.

    `reconstruct` also sends `process` spans in place of the workers': for when those were lost, else they are there twice.
    """
    spans = run_spans(records, reconstruct=reconstruct)
    await SpanExporter(settings).try_export(spans)
    return len(spans)


def _processes(records: Sequence[Record], spans: Sequence[Span]) -> list[Span]:
    """A span for each delivery whose worker traced it."""
    if not spans:
        return []
    trace = spans[0].trace_id
    agents: dict[str, TaskDispatched] = {}
    found: dict[str, Span] = {}
    for record in records:
        event = record.event
        own = span_id_of(record.traceparent) if trace_id_of(record.traceparent) == trace else None
        if isinstance(event, TaskDispatched):
            agents[event.task_id] = event
        if own is None:
            continue
        if isinstance(event, TaskStarted) and event.task_id in agents:
            parent = span_id(trace, "send", event.task_id)
            if own not in found and own != parent:
                found[own] = _process(record, event, agents[event.task_id].agent, (trace, own, parent))
        elif own in found:
            error = event.error.reason if isinstance(event, TaskFailed) else found[own].error
            found[own] = msgspec.structs.replace(found[own], end=max(found[own].end, _reported_at(record)), error=error)
    return list(found.values())


def _process(record: Record, event: TaskStarted, agent: str, ids: tuple[str, str, str]) -> Span:
    trace, own, parent = ids
    at = _reported_at(record)
    return Span(
        trace_id=trace,
        span_id=own,
        parent_id=parent,
        name=f"process {agent}",
        kind=SpanKind.CONSUMER,
        start=at,
        end=at,
        attributes=attributes(
            {
                "messaging.system": "redis",
                "messaging.operation.type": "process",
                "messaging.destination.name": f"tasks:{agent}",
                "messaging.consumer.group.name": agent,
                "messaging.message.conversation_id": record.workflow_id,
                "tailrace.workflow_id": record.workflow_id,
                "tailrace.task_id": event.task_id,
                "tailrace.stage": event.stage,
                "tailrace.attempt": event.attempt,
                "tailrace.worker": event.worker,
                "tailrace.delivery": event.delivery,
                "tailrace.reconstructed": True,
            }
        ),
        remote_parent=True,
    )


def _reported_at(record: Record) -> int:
    """When the report behind a record came, in microseconds: the id of its entry says so. Else when it was applied."""
    if record.command is None or record.command.type != "ApplyReport":
        return record.at
    milliseconds = record.command.id.partition("-")[0]
    return min(record.at, int(milliseconds) * 1000) if milliseconds.isdigit() else record.at
