"""Engine spans out of the log: fed with records in order, the encoder gives each span when it ends.

Nothing here is measured or random: ids derive from run, round, stage and attempt, times stand in the records. So a repeat
after a crash gives the same spans, byte for byte, and a task could name its parent (`send tasks`) long before it was sent.

    SERVER span of the request
      workflow <type>        one per round; ends with the run
        stage <name>         from its first dispatch to its outcome; one per round
        compensate <name>    the same of its undoing
          send tasks         one per attempt; its id is in the task
            process <agent>  made by the worker's SDK, not here
              apply report   one per report that changed the run, but for progress

A run is one trace however long it lives: handing a run over to a linked trace after a set age is not done.

Conventions: OpenTelemetry messaging. `send tasks` has no `messaging.message.id`, because the log does not hold the id of
the task's entry; the `process` span under it does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from tailrace.core.codec import CommandRecord, decode_command
from tailrace.core.commands import ApplyReport, Report
from tailrace.core.errors import Undecodable
from tailrace.core.events import (
    CompensationFailed,
    CompensationStarted,
    StageCompensated,
    StageCompleted,
    StageFailed,
    TaskDispatched,
    TaskStarted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowCreated,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowResumed,
    WorkflowRetried,
)
from tailrace.core.workflow.history import Record
from tailrace.infra.telemetry.facts import event_name, facts
from tailrace.infra.telemetry.run import OpenRun, OpenStage, next_round, open_run
from tailrace.infra.telemetry.shapes import apply_span, send_span, stage_span, workflow_span
from tailrace.infra.telemetry.span import Span, SpanLink

#: Open runs that are remembered; of others the history is asked for again.
OPEN_RUNS: Final = 10_000

#: Requests that came in traces of their own and are linked to from one run.
LINK_LIMIT: Final = 32


class HistoryMissing(Exception):
    """The record does not follow what the encoder knows of its run: `restore` it first."""


class SpanEncoder:
    """Turns records into spans. Knows at most `open_runs` runs at a time; one that ended is forgotten, unless `keep_ended`.

    A retry, or a report that comes too late, then needs the history of the run (`restore`).
    """

    def __init__(self, *, open_runs: int = OPEN_RUNS, keep_ended: bool = False) -> None:
        self._limit = open_runs
        self._keep_ended = keep_ended
        self._runs: OrderedDict[str, OpenRun] = OrderedDict()

    def knows(self, record: Record) -> bool:
        """True when `feed` can take the record."""
        run = self._runs.get(record.workflow_id)
        return record.version == 1 if run is None else record.version == run.version + 1

    def restore(self, workflow_id: str, records: Sequence[Record]) -> None:
        """Know a run again, from its whole history so far; its spans were given before. Raises `HistoryMissing`."""
        self._runs.pop(workflow_id, None)
        run: OpenRun | None = None
        for record in records:
            run, _ = _step(run, record)
        if run is not None:
            self._remember(run)

    def feed(self, record: Record) -> list[Span]:
        """The spans that end with this record, inner ones first. Raises `HistoryMissing`, and then nothing has changed."""
        if not self.knows(record):
            raise HistoryMissing(f"version {record.version} of {record.workflow_id}")
        run, spans = _step(self._runs.pop(record.workflow_id, None), record)
        if self._keep_ended or not run.closed:
            self._remember(run)
        return spans

    def forget(self, workflow_id: str) -> None:
        """Drop what is known of a run."""
        self._runs.pop(workflow_id, None)

    def open_spans(self, at: int) -> list[Span]:
        """What is still open, as if it ended at `at`, with the status `running`. Changes nothing."""
        return [span for run in self._runs.values() for span in _unfinished(run, at)]

    def _remember(self, run: OpenRun) -> None:
        self._runs[run.workflow_id] = run
        while len(self._runs) > self._limit:
            self._runs.popitem(last=False)


def _step(run: OpenRun | None, record: Record) -> tuple[OpenRun, list[Span]]:
    event = record.event
    if run is None:
        if not isinstance(event, WorkflowCreated) or record.version != 1:
            raise HistoryMissing(f"version {record.version} of {record.workflow_id}")
        return open_run(record, event), []
    if record.version != run.version + 1:
        raise HistoryMissing(f"version {record.version} of {record.workflow_id}")
    run.version = record.version
    spans = _applied(run, record)
    if isinstance(event, WorkflowRetried):
        next_round(run, record, event.round)
    elif isinstance(event, TaskDispatched):
        spans.append(_dispatched(run, record, event))
    elif isinstance(event, StageCompleted | StageFailed | StageCompensated | CompensationFailed):
        spans += _stage_ended(run, record, event)
    elif isinstance(event, WorkflowCompleted | WorkflowFailed | WorkflowCancelled):
        spans += _run_ended(run, record, event)
    elif isinstance(event, CompensationStarted):
        spans += _all_cancelled(run, record)
        _noted(run, record)
    else:
        _noted(run, record)
    return run, spans


def _applied(run: OpenRun, record: Record) -> list[Span]:
    """The span of the report that a record begins to apply; kept as the cause of what the command leads to."""
    if record.command is None:
        return []
    run.cause = ""
    report = _report(record.command)
    if report is None or report.kind == "progressed":
        return []
    span = apply_span(run, record, report)
    run.cause = span.span_id
    return [span]


def _report(command: CommandRecord) -> Report | None:
    if command.type != "ApplyReport":
        return None
    try:
        decoded = decode_command(command)
    except Undecodable:
        return None
    return decoded.report if isinstance(decoded, ApplyReport) else None


def _dispatched(run: OpenRun, record: Record, event: TaskDispatched) -> Span:
    stage = run.stages.get(event.stage)
    if stage is None:
        links = (SpanLink(trace_id=run.trace_id, span_id=run.cause),) if run.cause else ()
        stage = OpenStage(
            name=event.stage,
            agent=event.agent,
            started_at=record.at,
            links=links,
            compensation=event.compensation,
        )
        run.stages[event.stage] = stage
    stage.attempts += 1
    return send_span(run, record, event)


def _stage_ended(
    run: OpenRun, record: Record, event: StageCompleted | StageFailed | StageCompensated | CompensationFailed
) -> list[Span]:
    stage = run.stages.pop(event.stage, None)
    if stage is None:
        return []
    if isinstance(event, StageCompleted | StageCompensated):
        stage.worker = event.worker
        return [stage_span(run, stage, record.at, "completed")]
    return [stage_span(run, stage, record.at, "failed", failure=event.error)]


def _run_ended(
    run: OpenRun, record: Record, event: WorkflowCompleted | WorkflowFailed | WorkflowCancelled
) -> list[Span]:
    spans = _all_cancelled(run, record)
    if isinstance(event, WorkflowFailed):
        more = {"tailrace.stage": event.stage, "tailrace.not_compensated": ", ".join(event.not_compensated)}
        spans.append(workflow_span(run, record.at, "failed", failure=event.error, more=more))
    elif isinstance(event, WorkflowCancelled):
        _note_origin(run, record)
        more = {"tailrace.reason": event.reason, "tailrace.not_compensated": ", ".join(event.not_compensated)}
        spans.append(workflow_span(run, record.at, "cancelled", more=more))
    else:
        spans.append(workflow_span(run, record.at, "completed"))
    run.closed = True
    return spans


def _all_cancelled(run: OpenRun, record: Record) -> list[Span]:
    """Stages without outcome end with their run, or when it begins to end."""
    spans = [stage_span(run, stage, record.at, "cancelled") for stage in run.stages.values()]
    run.stages = {}
    return spans


def _noted(run: OpenRun, record: Record) -> None:
    """What is no span of its own becomes an event of the stage's span, or of the run's."""
    event = record.event
    place, told = facts(event)
    stage = run.stages.get(place)
    if isinstance(event, TaskStarted) and stage is not None:
        stage.worker = event.worker
    if isinstance(event, WorkflowPaused | WorkflowResumed | CompensationStarted):
        _note_origin(run, record)
    if told is not None:
        (run if stage is None else stage).happenings.add(event_name(event), record.at, told)


def _note_origin(run: OpenRun, record: Record) -> None:
    """Link the run to the request of a command that came in a trace of its own."""
    _, link = run.origin(record)
    if link is not None and len(run.links) < LINK_LIMIT:
        run.links.append(link)


def _unfinished(run: OpenRun, at: int) -> list[Span]:
    if run.closed:
        return []
    spans = [stage_span(run, stage, max(at, stage.started_at), "running") for stage in run.stages.values()]
    return [*spans, workflow_span(run, max(at, run.started_at), "running")]
