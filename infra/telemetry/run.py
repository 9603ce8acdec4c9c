"""What the encoder keeps of a run that is open: enough to name parents and to end spans, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tailrace.core.events import WorkflowCreated
from tailrace.core.ids import span_id, span_id_of, trace_id_of
from tailrace.core.workflow.history import Record
from tailrace.infra.telemetry.span import EVENT_LIMIT, Attributes, AttributeValue, SpanEvent, SpanLink, attributes


@dataclass(slots=True)
class Happenings:
    """Events of a span that is open, the first `EVENT_LIMIT` of them."""

    kept: list[SpanEvent] = field(default_factory=list)
    dropped: int = 0

    def add(self, name: str, at: int, values: Mapping[str, AttributeValue | None]) -> None:
        """Keep one, or count it as dropped."""
        if len(self.kept) < EVENT_LIMIT:
            self.kept.append(SpanEvent(name=name, at=at, attributes=attributes(values)))
        else:
            self.dropped += 1


@dataclass(slots=True)
class OpenStage:
    """A stage that was dispatched in this round and has no outcome, or one that is being undone."""

    name: str
    agent: str
    started_at: int
    links: tuple[SpanLink, ...]
    attempts: int = 0
    worker: str = ""
    happenings: Happenings = field(default_factory=Happenings)
    compensation: bool = False


@dataclass(slots=True)
class OpenRun:
    """A run in its present round. `cause` is the span of the report that is being applied, empty for other commands."""

    workflow_id: str
    trace_id: str
    request_id: str
    sampled: bool
    created: Attributes
    type: str
    started_at: int
    parent_id: str
    version: int = 1
    round: int = 1
    closed: bool = False
    cause: str = ""
    links: list[SpanLink] = field(default_factory=list)
    stages: dict[str, OpenStage] = field(default_factory=dict)
    happenings: Happenings = field(default_factory=Happenings)

    @property
    def span_id(self) -> str:
        """The workflow span of this round."""
        return self.id_of("workflow", str(self.round))

    def stage_id(self, stage: str, *, compensation: bool = False) -> str:
        """The span of a stage in this round, or of its undoing."""
        return self.id_of("compensation" if compensation else "stage", str(self.round), stage)

    def id_of(self, *parts: str) -> str:
        """A span's id. Several runs may share the trace of one request, so each id names its run."""
        return span_id(self.trace_id, parts[0], self.workflow_id, *parts[1:])

    def origin(self, record: Record) -> tuple[str, SpanLink | None]:
        """The span a record names as its cause: its id when it is in this trace, else a link to it."""
        trace, span = trace_id_of(record.traceparent), span_id_of(record.traceparent)
        if trace is None or span is None:
            return "", None
        if trace == self.trace_id:
            return span, None
        return "", SpanLink(
            trace_id=trace, span_id=span, attributes=attributes({"tailrace.command": command_type(record)})
        )


def open_run(record: Record, event: WorkflowCreated) -> OpenRun:
    """A run at its first event. One that was created outside of any trace gets a trace id made from its own id."""
    trace = trace_id_of(record.traceparent)
    parent = span_id_of(record.traceparent) or ""
    if trace is None:
        trace, parent = hashlib.sha256(f"workflow\n{record.workflow_id}".encode()).hexdigest()[:32], ""
    return OpenRun(
        workflow_id=record.workflow_id,
        trace_id=trace,
        request_id=parent,
        sampled=not parent or bool(int(record.traceparent[-2:], 16) & 1),
        created=attributes(
            {
                "tailrace.workflow.type": event.type,
                "tailrace.workflow.name": event.name,
                "tailrace.definition": event.definition,
                "tailrace.priority": event.priority,
            }
        ),
        type=event.type,
        started_at=record.at,
        parent_id=parent,
    )


def next_round(run: OpenRun, record: Record, number: int) -> None:
    """Begin a round: a workflow span of its own, under the retry's request or, from another trace, linked to it."""
    parent, link = run.origin(record)
    run.round = number
    run.started_at = record.at
    run.parent_id = parent or run.request_id
    run.links = [] if link is None else [link]
    run.stages = {}
    run.happenings = Happenings()
    run.closed = False


def command_type(record: Record) -> str:
    """The command that a record begins, empty within a command."""
    return "" if record.command is None else record.command.type


def written_at(record: Record) -> int:
    """When the record stood in the log, in microseconds: an entry id begins with the store's milliseconds.

    Never before the record's own time, which is exact to the microsecond.
    """
    milliseconds = record.entry_id.partition("-")[0]
    return max(record.at, int(milliseconds) * 1000) if milliseconds.isdigit() else record.at
