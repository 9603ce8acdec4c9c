"""How each kind of engine span looks: its name, id, parent and attributes. No name holds an id.

The attributes follow OpenTelemetry's conventions for messaging, and `tailrace.*` for what these have no word for.
"""

from __future__ import annotations

from typing import Final

from tailrace.core.commands import Report
from tailrace.core.events import Failure, ReportIgnored, TaskDispatched
from tailrace.core.ids import span_id
from tailrace.core.workflow.history import Record
from tailrace.infra.telemetry.facts import Values, error_facts
from tailrace.infra.telemetry.run import OpenRun, OpenStage, written_at
from tailrace.infra.telemetry.span import Span, SpanKind, SpanLink, attributes

_MESSAGING: Final = {"messaging.system": "redis"}


def workflow_span(
    run: OpenRun, at: int, status: str, *, failure: Failure | None = None, more: Values | None = None
) -> Span:
    """The present round of a run, ended at `at`."""
    values: Values = {
        **dict(run.created),
        "tailrace.round": run.round,
        "tailrace.status": status,
        **error_facts(failure),
        **(more or {}),
    }
    return _span(
        run,
        run.span_id,
        run.parent_id,
        f"workflow {run.type}",
        (run.started_at, at),
        values,
        happened=run,
        links=tuple(run.links),
        error="" if failure is None else failure.reason,
        remote_parent=bool(run.parent_id),
    )


def stage_span(run: OpenRun, stage: OpenStage, at: int, status: str, *, failure: Failure | None = None) -> Span:
    """A stage in the present round, or its undoing, ended at `at`."""
    values: Values = {
        "tailrace.stage": stage.name,
        "tailrace.agent": stage.agent,
        "tailrace.round": run.round,
        "tailrace.attempts": stage.attempts,
        "tailrace.worker": stage.worker,
        "tailrace.status": status,
        **error_facts(failure),
    }
    return _span(
        run,
        run.stage_id(stage.name, compensation=stage.compensation),
        run.span_id,
        f"{'compensate' if stage.compensation else 'stage'} {stage.name}",
        (stage.started_at, at),
        values,
        happened=stage,
        links=stage.links,
        error="" if failure is None else failure.reason,
    )


def send_span(run: OpenRun, record: Record, event: TaskDispatched) -> Span:
    """The sending of a task; its id is the one that `core.engine.plan` put into the task."""
    values: Values = {
        **_MESSAGING,
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": f"tasks:{event.agent}",
        "tailrace.task_id": event.task_id,
        "tailrace.stage": event.stage,
        "tailrace.attempt": event.attempt,
        "tailrace.action": event.action,
    }
    own = span_id(run.trace_id, "send", event.task_id)
    times = (record.at, written_at(record))
    parent = run.stage_id(event.stage, compensation=event.compensation)
    return _span(run, own, parent, "send tasks", times, values, kind=SpanKind.PRODUCER)


def apply_span(run: OpenRun, record: Record, report: Report) -> Span:
    """The applying of a report that `record` begins; its parent is the span that the report was sent from."""
    assert record.command is not None
    parent, link = run.origin(record)
    values: Values = {
        **_MESSAGING,
        "messaging.operation.type": "process",
        "messaging.operation.name": "apply",
        "messaging.destination.name": "reports",
        "messaging.message.id": record.command.id,
        "tailrace.task_id": report.task_id,
        "tailrace.report": report.kind,
        "tailrace.report.ignored": record.event.reason if isinstance(record.event, ReportIgnored) else None,
        "tailrace.worker": report.worker,
        "tailrace.delivery": report.delivery,
        "tailrace.version": record.version,
    }
    return _span(
        run,
        run.id_of("apply", str(record.version)),
        parent or run.span_id,
        "apply report",
        (record.at, written_at(record)),
        values,
        kind=SpanKind.CONSUMER,
        links=() if link is None else (link,),
        remote_parent=True,
    )


def _span(
    run: OpenRun,
    own_id: str,
    parent_id: str,
    name: str,
    times: tuple[int, int],
    values: Values,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    happened: OpenRun | OpenStage | None = None,
    links: tuple[SpanLink, ...] = (),
    error: str = "",
    remote_parent: bool = False,
) -> Span:
    common = {"messaging.message.conversation_id": run.workflow_id, "tailrace.workflow_id": run.workflow_id}
    return Span(
        trace_id=run.trace_id,
        span_id=own_id,
        parent_id=parent_id,
        name=name,
        kind=kind,
        start=times[0],
        end=times[1],
        attributes=attributes({**values, **common}),
        events=() if happened is None else tuple(happened.happenings.kept),
        dropped_events=0 if happened is None else happened.happenings.dropped,
        links=links,
        error=error,
        sampled=run.sampled,
        remote_parent=remote_parent,
    )
