"""Engine spans out of a run's records: one tree, ids that tasks knew before, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec
import pytest

from tailrace.core.commands import (
    CancelWorkflow,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.engine.plan import plan
from tailrace.core.ids import child_traceparent, span_id, span_id_of
from tailrace.core.testing import builders
from tailrace.core.testing.builders import TRACEPARENT, diamond, line, pipeline, undone
from tailrace.core.testing.history import History
from tailrace.core.workflow.history import Record, step
from tailrace.infra.telemetry.document import run_spans, trace_document
from tailrace.infra.telemetry.jaeger import jaeger_json
from tailrace.infra.telemetry.otlp import encode_spans
from tailrace.infra.telemetry.span import EVENT_LIMIT, Span, SpanKind
from tailrace.infra.telemetry.spans import HistoryMissing, SpanEncoder

TRACE = TRACEPARENT[3:35]
REQUEST = TRACEPARENT[36:52]
OTHER_TRACEPARENT = "00-11111111111111111111111111111111-2222222222222222-01"


def process_id(task_id: str, delivery: int = 1) -> str:
    """The id that the worker's own span has in these tests."""
    return span_id(TRACE, "worker", task_id, str(delivery))


def traced(history: History) -> list[Record]:
    """The records as they would be if a worker with the SDK had sent each report from a span of its own."""
    records: list[Record] = []
    parent = TRACEPARENT
    for record in history.records:
        if record.command is not None:
            parent = TRACEPARENT
            if record.command.type == "ApplyReport":
                fields = msgspec.msgpack.decode(record.command.payload)["report"]
                parent = child_traceparent(TRACEPARENT, process_id(fields["task_id"], fields.get("delivery", 1)))
        records.append(msgspec.structs.replace(record, traceparent=parent))
    return records


def encoded(records: Iterable[Record]) -> list[Span]:
    encoder = SpanEncoder()
    return [span for record in records for span in encoder.feed(record)]


def only(spans: Iterable[Span], name: str) -> Span:
    (span,) = [span for span in spans if span.name == name]
    return span


def named(spans: Iterable[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def value(span: Span, key: str) -> object:
    return dict(span.attributes).get(key)


@pytest.fixture
def run() -> History:
    """A run of two stages, each started and completed, one second apart."""
    history = History(line("build", "ship"))
    history.create(type="app", name="an app")
    for stage in ("build", "ship"):
        history.advance(1)
        history.start(stage)
        history.advance(1)
        history.complete(stage)
    return history


def test_a_run_is_one_tree_under_the_request(run: History) -> None:
    """SERVER, workflow, stage, send, process, apply: each names the one before as its parent."""
    spans = encoded(traced(run))
    assert {span.trace_id for span in spans} == {TRACE}
    workflow, build = only(spans, "workflow app"), only(spans, "stage build")
    assert workflow.parent_id == REQUEST
    assert workflow.remote_parent
    assert build.parent_id == workflow.span_id
    sends = named(spans, "send tasks")
    assert [send.parent_id for send in sends] == [build.span_id, only(spans, "stage ship").span_id]
    assert [value(send, "tailrace.task_id") for send in sends] == [run.task_id("build"), run.task_id("ship")]
    applied = named(spans, "apply report")
    assert [value(span, "tailrace.report") for span in applied] == ["started", "completed"] * 2
    assert {span.parent_id for span in applied} == {process_id(run.task_id(stage)) for stage in ("build", "ship")}
    assert len({span.span_id for span in spans}) == len(spans) == 9


def test_the_next_stage_is_linked_to_the_report_that_led_to_it(run: History) -> None:
    """A stage is under its workflow, and says which report opened the way."""
    spans = encoded(traced(run))
    completed = [span for span in named(spans, "apply report") if value(span, "tailrace.report") == "completed"]
    assert [link.span_id for link in only(spans, "stage ship").links] == [completed[0].span_id]
    assert only(spans, "stage build").links == ()


def test_times_come_from_the_records(run: History) -> None:
    """A stage lasts from its dispatch to its outcome, a workflow from its first to its last event."""
    spans = encoded(run.records)
    first, last = run.records[0].at, run.records[-1].at
    workflow, build = only(spans, "workflow app"), only(spans, "stage build")
    assert (workflow.start, workflow.end) == (first, last)
    assert (build.start, build.end) == (first, first + 2_000_000)
    assert all(span.end >= span.start for span in spans)


def test_spans_come_when_they_end(run: History) -> None:
    """Nothing is sent of a stage or a run before its outcome; inner spans come first."""
    encoder = SpanEncoder()
    by_event = [(type(record.event).__name__, [span.name for span in encoder.feed(record)]) for record in run.records]
    assert by_event == [
        ("WorkflowCreated", []),
        ("TaskDispatched", ["send tasks"]),
        ("TaskStarted", ["apply report"]),
        ("StageCompleted", ["apply report", "stage build"]),
        ("TaskDispatched", ["send tasks"]),
        ("TaskStarted", ["apply report"]),
        ("StageCompleted", ["apply report", "stage ship"]),
        ("WorkflowCompleted", ["workflow app"]),
    ]


def test_a_send_span_has_the_id_that_the_task_carries() -> None:
    """What `plan` puts into a task is the span that is encoded from the log later."""
    pipeline = line("build")
    command = builders.create_workflow(pipeline, "run-1")
    after, decided = step(pipeline, None, command, now=1, command_id="c", actor="t", traceparent=TRACEPARENT)
    assert after is not None
    (dispatch,) = plan(pipeline, None, after, decided, traceparents=[TRACEPARENT] * len(decided)).dispatches
    history = History(pipeline)
    history.create()
    (send,) = encoded(history.records)
    assert dispatch.traceparent == child_traceparent(TRACEPARENT, send.span_id)
    assert send.kind is SpanKind.PRODUCER


def test_messaging_conventions_and_no_ids_in_names(run: History) -> None:
    """Names are few; what identifies stands in attributes."""
    spans = encoded(traced(run))
    assert not [span.name for span in spans if run.workflow_id in span.name]
    assert {value(span, "messaging.message.conversation_id") for span in spans} == {run.workflow_id}
    send, applied = named(spans, "send tasks")[0], named(spans, "apply report")[0]
    assert (value(send, "messaging.system"), value(applied, "messaging.system")) == ("redis", "redis")
    assert value(send, "messaging.destination.name") == "tasks:agent"
    assert value(applied, "messaging.destination.name") == "reports"
    assert value(applied, "messaging.message.id") == "command-2"


def test_a_repeat_is_the_same_bytes(run: History) -> None:
    """Encoding a history again, in one go or from any point on, gives exactly what it gave before."""
    run.do(RetryWorkflow(from_stage="ship"))
    run.fail("ship", retryable=False)
    records = traced(run)
    encoder = SpanEncoder(keep_ended=True)
    batches = [encoder.feed(record) for record in records]
    whole = [encode_spans(batch, {"service.name": "s"}) for batch in batches]
    for point in range(1, len(records)):
        again = SpanEncoder(keep_ended=True)
        again.restore(run.workflow_id, records[:point])
        rest = [encode_spans(again.feed(record), {"service.name": "s"}) for record in records[point:]]
        assert rest == whole[point:], f"from record {point}"


def test_a_failed_run_says_why() -> None:
    """Stage and workflow carry the reason; the stall that was flagged is an event of the run."""
    history = History(line("build", "ship"))
    history.create()
    history.start("build")
    history.fail("build", reason="no-such-file", retryable=False)
    spans = encoded(history.records)
    build, workflow = only(spans, "stage build"), only(spans, "workflow line")
    assert (build.error, workflow.error) == ("no-such-file", "no-such-file")
    assert value(workflow, "error.type") == "no-such-file"
    assert value(workflow, "tailrace.stage") == "build"
    assert value(build, "tailrace.error.message") == "it failed: no-such-file"
    assert [event.name for event in build.events] == ["task.started", "task.failed"]
    assert named(spans, "stage ship") == []


def test_retries_are_sends_of_one_stage() -> None:
    """Each attempt is sent from the same stage span, which tells of the failures in between."""
    history = History(line("build"))
    history.create()
    history.start("build")
    history.fail("build")
    history.fire("retry", "build")
    history.start("build", worker="w2")
    history.complete("build", worker="w2")
    spans = encoded(history.records)
    build = only(spans, "stage build")
    sends = named(spans, "send tasks")
    assert {send.parent_id for send in sends} == {build.span_id}
    assert [value(send, "tailrace.attempt") for send in sends] == [1, 2]
    assert (value(build, "tailrace.attempts"), value(build, "tailrace.worker"), build.error) == (2, "w2", "")
    assert [event.name for event in build.events] == ["task.started", "task.failed", "task.started"]


def test_each_round_has_spans_of_its_own() -> None:
    """A retry opens a new workflow span in the same trace; a request of another trace is linked to."""
    history = History(line("build", "ship"))
    history.create()
    history.complete("build")
    history.fail("ship", retryable=False)
    history.advance(60)
    history.do(RetryWorkflow())
    history.complete("ship")
    records = [
        msgspec.structs.replace(record, traceparent=OTHER_TRACEPARENT) if record.type == "WorkflowRetried" else record
        for record in history.records
    ]
    encoder = SpanEncoder()
    spans: list[Span] = []
    for position, record in enumerate(records):
        if not encoder.knows(record):
            encoder.restore(record.workflow_id, records[:position])
        spans += encoder.feed(record)
    first, second = named(spans, "workflow line")
    assert first.span_id != second.span_id
    assert (first.parent_id, second.parent_id) == (REQUEST, REQUEST)
    assert [(link.trace_id, link.span_id) for link in second.links] == [("1" * 32, "2" * 16)]
    assert (value(first, "tailrace.round"), value(second, "tailrace.round")) == (1, 2)
    assert second.start - first.end == 60_000_000
    failed, completed = named(spans, "stage ship")
    assert (failed.parent_id, completed.parent_id) == (first.span_id, second.span_id)
    assert len(named(spans, "stage build")) == 1


def test_cancelling_ends_what_is_open() -> None:
    """Open stages end with the run, as cancelled and not as errors."""
    history = History(diamond())
    history.create()
    history.complete("start")
    history.start("left")
    history.do(CancelWorkflow(reason="not wanted"))
    spans = encoded(history.records)
    ended = [only(spans, f"stage {name}") for name in ("left", "right")]
    assert {value(span, "tailrace.status") for span in ended} == {"cancelled"}
    workflow = only(spans, "workflow diamond")
    assert (value(workflow, "tailrace.status"), value(workflow, "tailrace.reason")) == ("cancelled", "not wanted")
    assert {span.error for span in spans} == {""}


def test_progress_stalls_and_pauses_are_events() -> None:
    """What has no duration of its own stands on the span it belongs to; progress is no report span."""
    history = History(line("build"))
    history.create()
    history.start("build")
    history.report(builders.progressed(history.task_id("build"), 0.5))
    history.do(FlagStall(cause="overdue", hop="worker", summary="too long"))
    history.do(RedispatchTask(task_id=history.task_id("build"), reason="entry-gone"))
    history.do(PauseWorkflow(reason="lunch"))
    history.do(ResumeWorkflow())
    history.complete("build")
    spans = encoded(history.records)
    build, workflow = only(spans, "stage build"), only(spans, "workflow line")
    assert [event.name for event in build.events] == [
        "task.started",
        "task.progressed",
        "task.redispatched",
        "task.started",
    ]
    assert dict(build.events[1].attributes)["tailrace.fraction"] == 0.5
    assert [event.name for event in workflow.events] == [
        "workflow.stalled",
        "stall.cleared",
        "workflow.paused",
        "workflow.resumed",
    ]
    assert len(named(spans, "send tasks")) == 1, "a second entry of the same task is the same span"
    assert [value(span, "tailrace.report") for span in named(spans, "apply report")] == ["started", "completed"]


def test_events_of_a_span_are_bounded() -> None:
    """However long a task reports progress, its stage's span stays small and says what it left out."""
    history = History(line("build"))
    history.create()
    history.start("build")
    for number in range(EVENT_LIMIT + 10):
        history.report(builders.progressed(history.task_id("build"), number / 1000))
    history.complete("build")
    build = only(encoded(history.records), "stage build")
    assert (len(build.events), build.dropped_events) == (EVENT_LIMIT, 11)


def test_a_report_too_late_is_a_span_with_the_reason(run: History) -> None:
    """Work that was dropped can be found in the trace, also after the run has ended."""
    run.complete("build", worker="w9")
    records = traced(run)
    encoder = SpanEncoder()
    for record in records[:-1]:
        encoder.feed(record)
    assert not encoder.knows(records[-1]), "a run that ended is forgotten"
    with pytest.raises(HistoryMissing):
        encoder.feed(records[-1])
    encoder.restore(run.workflow_id, records[:-1])
    (span,) = encoder.feed(records[-1])
    assert (span.name, value(span, "tailrace.report.ignored")) == ("apply report", "task-closed")


def test_a_run_outside_of_any_trace_gets_one_of_its_own() -> None:
    """Without a `traceparent` the trace id comes from the run's id: always the same."""
    history = History(line("build"))
    history.create()
    history.complete("build")
    records = [msgspec.structs.replace(record, traceparent="") for record in history.records]
    spans = encoded(records)
    assert spans == encoded(records)
    assert len({span.trace_id for span in spans}) == 1
    assert only(spans, "workflow line").parent_id == ""


def test_two_runs_of_one_request_share_the_trace_and_no_span() -> None:
    """One client's trace may start several runs."""
    both = []
    for workflow_id in ("run-1", "run-2"):
        history = History(line("build"), workflow_id)
        history.create()
        history.complete("build")
        both.append({span.span_id for span in encoded(history.records)})
    assert both[0].isdisjoint(both[1])


def test_the_callers_sampling_decision_is_kept(run: History) -> None:
    """A request whose trace is not sampled has engine spans that say so."""
    records = [msgspec.structs.replace(record, traceparent=f"{TRACEPARENT[:-2]}00") for record in run.records]
    assert {span.sampled for span in encoded(records)} == {False}
    assert {span.sampled for span in encoded(run.records)} == {True}


def test_few_runs_are_remembered() -> None:
    """Memory is bounded: of runs over the limit the oldest is forgotten, and has to be restored."""
    encoder = SpanEncoder(open_runs=2)
    histories = [History(line("build"), f"run-{number}") for number in range(3)]
    for history in histories:
        history.create()
        for record in history.records:
            encoder.feed(record)
        history.start("build")
    assert [encoder.knows(history.records[-1]) for history in histories] == [False, True, True]


def test_the_document_is_a_tree_with_the_workers_put_in(run: History) -> None:
    """What the log says of workers fills their place, marked; the tree hangs together."""
    document = trace_document(traced(run))
    (root,) = document.roots
    assert (root.span.name, document.trace_id, document.workflow_id) == ("workflow app", TRACE, run.workflow_id)
    assert [child.span.name for child in root.children] == ["stage build", "stage ship"]
    (send,) = root.children[0].children
    (process,) = send.children
    assert (process.span.name, process.span.span_id) == ("process agent", process_id(run.task_id("build")))
    assert value(process.span, "tailrace.reconstructed") is True
    assert [child.span.name for child in process.children] == ["apply report", "apply report"]


def test_a_run_that_goes_on_is_shown_up_to_now() -> None:
    """Open spans are shown with the status `running`, and only when asked for."""
    history = History(line("build"))
    history.create()
    assert [span.name for span in run_spans(history.records)] == ["send tasks"]
    spans = run_spans(history.records, at=history.now + 5)
    assert [span.name for span in spans] == ["workflow line", "stage build", "send tasks"]
    assert {value(span, "tailrace.status") for span in spans[:2]} == {"running"}
    assert trace_document([]).roots == ()


def test_the_jaeger_file_holds_every_span(run: History) -> None:
    """Parents and links are references; the same spans are the same file."""
    spans = run_spans(traced(run))
    data = jaeger_json(spans)
    assert data == jaeger_json(run_spans(traced(run)))
    (trace,) = msgspec.json.decode(data)["data"]
    assert trace["traceID"] == TRACE
    assert {span["spanID"] for span in trace["spans"]} == {span.span_id for span in spans}
    by_name = {span["operationName"]: span for span in trace["spans"]}
    assert by_name["workflow app"]["references"] == [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": REQUEST}]
    assert by_name["process agent"]["processID"] == "worker"


@pytest.mark.parametrize("seed", range(20))
def test_every_history_gives_one_tree(seed: int) -> None:
    """Whatever happens to a run, each span's parent is known, no id comes twice, and none ends before it begins."""
    random = Random(seed)
    history = History(diamond())
    history.create()
    for _ in range(60):
        history.advance(random.random())
        if history.state.terminal:
            whole = history.state.status == "completed"
            history.do(RetryWorkflow(from_stage=random.choice(["start", "left"] if whole else [None, "start"])))
            continue
        timers = sorted(history.timers)
        stage = random.choice(history.open_stages) if history.open_stages else None
        if stage is None:
            history.fire(*random.choice(timers))
            continue
        choice = random.choice(["start", "complete", "complete", "fail", "fail-for-good", "cancel"])
        if choice == "start":
            history.start(stage, delivery=random.randint(1, 3))
        elif choice == "complete":
            history.complete(stage)
        elif choice == "cancel" and random.random() < 0.2:
            history.do(CancelWorkflow())
        else:
            history.fail(stage, retryable=choice == "fail")
    records = traced(history)
    spans = run_spans(records, at=history.now)
    ids = [span.span_id for span in spans]
    assert len(ids) == len(set(ids))
    assert {span.parent_id for span in spans} <= {*ids, REQUEST}
    assert all(span.end >= span.start for span in spans)


def test_span_ids_are_hex_of_the_right_length(run: History) -> None:
    """What goes into protobuf as bytes is 8 and 16 bytes long."""
    for span in encoded(traced(run)):
        assert len(bytes.fromhex(span.trace_id)) == 16
        assert len(bytes.fromhex(span.span_id)) == 8
    assert span_id_of(TRACEPARENT) == REQUEST


def test_undoing_has_spans_of_its_own() -> None:
    """Beside those of the stages, under the workflow; what was open when the run began to end ends there."""
    history = History(pipeline(undone("build"), undone("test", "build"), builders.stage("ship", "build")))
    history.create(type="app", name="an app")
    history.complete("build")
    history.start("test")
    history.advance(1)
    history.fail("ship", retryable=False)
    history.advance(1)
    history.report(builders.cancelled(history.task_id("test")))
    history.complete("build")
    spans = encoded(traced(history))
    workflow, undoing = only(spans, "workflow app"), only(spans, "compensate build")
    assert (undoing.parent_id, value(undoing, "tailrace.status")) == (workflow.span_id, "completed")
    assert value(only(spans, "stage test"), "tailrace.status") == "cancelled"
    assert only(spans, "stage test").end == workflow.end - 1_000_000
    (sent,) = [span for span in named(spans, "send tasks") if value(span, "tailrace.task_id") == "run-1:build:2"]
    assert sent.parent_id == undoing.span_id
    assert [event.name for event in workflow.events] == ["compensation.started", "task.stopped"]
    assert len({span.span_id for span in spans}) == len(spans)
    assert [span.name for span in run_spans(history.records, reconstruct=False)].count("compensate build") == 1
