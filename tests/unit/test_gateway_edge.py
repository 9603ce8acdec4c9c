"""Small parts of the gateway: the table of problems, cursors, figures, CloudEvents."""

from __future__ import annotations

import inspect

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tailrace.core import errors
from tailrace.core.codec import encode_event
from tailrace.core.errors import FieldError, InvalidInput, TailraceError
from tailrace.core.events import EVENTS, Failure, TaskFailed
from tailrace.core.store.port import RawEntry
from tailrace.gateway import cursors, problems
from tailrace.gateway.cloudevents import Item, plain
from tailrace.gateway.cursors import LogCursor, Position, RunCursor
from tailrace.gateway.documents import StageDocument, artifact_documents
from tailrace.gateway.metrics import Metrics, gauge, render
from tailrace.gateway.problems import TABLE, Refusal
from tailrace.gateway.schemas import escape
from tailrace.gateway.tracing import begin
from tailrace.projections.rows import StageRow


def test_the_table_of_problems_is_complete() -> None:
    """Each error of the core has its own row: a new one is not forgotten."""
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, TailraceError)}
    assert set(TABLE) == classes


def test_a_row_that_says_try_again_says_when() -> None:
    """503 has a Retry-After, and so has whatever is retryable; nothing else has."""
    for cls, row in TABLE.items():
        assert (row.retry_after_seconds is not None) == (row.status == 503 or cls.retryable), cls


def test_an_error_of_a_subclass_has_the_row_of_its_base() -> None:
    """An error that an adapter derives is told as what it is derived from."""

    class Special(InvalidInput):
        pass

    problem, _ = problems.of_error(Special("no", [FieldError(pointer="/a", detail="b")]), "t")
    assert (problem.status, problem.code, len(problem.errors)) == (422, "invalid-input", 1)


def test_text_that_is_no_unicode_is_still_told() -> None:
    """A lone surrogate in a client's text does not break the answer about it."""
    problem, _ = problems.of_refusal(Refusal(400, "bad", "it holds \ud800"), "t")
    assert b"it holds \\ud800" in problems.encode(problem)


def test_cursors_come_back_as_they_went() -> None:
    """Opaque text, safe in a header and in a query."""
    for cursor in (RunCursor("e", 7, "12-3"), RunCursor("", 0)):
        assert cursors.decode_run(cursors.encode(cursor)) == cursor
    log = LogCursor("e", (Position("1-1", 4), Position()))
    text = cursors.encode(log)
    assert cursors.decode_log(text, 2) == log
    assert text.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "text",
    ["", "x", "é", "====", cursors.encode(RunCursor("e", -1)), cursors.encode(RunCursor("e", 1, "1")), "9" * 20],
)
def test_text_that_is_no_cursor_is_refused(text: str) -> None:
    """400, whatever it is."""
    with pytest.raises(Refusal):
        cursors.decode_run(text)
    with pytest.raises(Refusal):
        cursors.decode_log(text, 2)


def test_places_are_ordered_by_number() -> None:
    """Not by text."""
    assert Position("9-1").is_before(Position("10-0"))
    assert Position("9-9").is_before(Position("9-10"))
    assert not Position("9-1").is_before(Position("9-1"))


def test_pointers_escape_what_has_a_meaning_in_them() -> None:
    """RFC 6901."""
    assert escape("a/b~c") == "a~1b~0c"
    assert escape("\ud800") == "?"


def test_events_are_told_with_every_field() -> None:
    """Also those that have their default, at every depth."""
    event = TaskFailed(task_id="w:a:1", stage="a", attempt=1, error=Failure(reason="x"))
    entry = RawEntry(
        partition=0,
        entry_id="1-1",
        seq=9,
        workflow_id="w",
        version=4,
        type="TaskFailed",
        traceparent="",
        data=encode_event(event, at=1_000_000),
    )
    told = msgspec.json.decode(Item(entry, "urn:x").json)
    assert told["data"] == {
        "version": 4,
        "seq": 9,
        "task_id": "w:a:1",
        "stage": "a",
        "attempt": 1,
        "error": {"reason": "x", "message": "", "retryable": False, "details": {}},
        "worker": "",
        "retry_at": None,
        "told": False,
        "grace_until": None,
    }
    assert told["time"] == "1970-01-01T00:00:01.000000Z"


def test_no_event_has_a_field_that_its_place_has() -> None:
    """`version` and `seq` stand beside the fields of the event."""
    for cls in EVENTS.values():
        assert not {"version", "seq"} & set(cls.__struct_fields__)


def test_plain_leaves_values_alone() -> None:
    """What an agent gave is shown as it is."""
    assert plain({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}


def test_stages_look_alike_from_store_and_archive() -> None:
    """One document, two sources."""
    assert StageDocument.__struct_fields__ == StageRow.__struct_fields__


def test_an_artifact_is_listed_once_per_stage() -> None:
    """However often its output names it; what only looks like one is not listed."""
    ref = {"sha256": "a" * 64, "size": 1, "name": "n"}
    found = artifact_documents({"s": [ref, {"x": ref}], "t": {"$artifact": ref}, "u": {**ref, "sha256": "short"}})
    assert [(artifact.stage, artifact.media_type) for artifact in found] == [
        ("s", "application/octet-stream"),
        ("t", "application/octet-stream"),
    ]


def test_the_trace_of_a_request_is_that_of_its_span() -> None:
    """The span that tracing made for the request counts more than the header that it was made from."""
    context = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    header = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with trace.use_span(NonRecordingSpan(context)):
        found = begin(make_mocked_request("GET", "/", headers=header))
    assert found.traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert begin(make_mocked_request("GET", "/", headers=header)).traceparent == header["traceparent"]


def test_labels_of_metrics_are_escaped() -> None:
    """A value may hold anything."""
    assert 'm{a="x\\"\\\\\\ny"} 2' in render([gauge("m", "Meaning.", 2, a='x"\\\ny')])


def test_durations_are_counted_in_buckets_that_add_up() -> None:
    """Each bucket counts all that were at most as long."""
    metrics = Metrics()
    for seconds in (0.0005, 0.02, 99.0):
        metrics.request("GET", "/x", 200, seconds)
    text = render(metrics.families())
    assert 'tailrace_http_request_duration_seconds_bucket{route="/x",le="0.001"} 1' in text
    assert 'tailrace_http_request_duration_seconds_bucket{route="/x",le="0.025"} 2' in text
    assert 'tailrace_http_request_duration_seconds_bucket{route="/x",le="+Inf"} 3' in text
    assert 'tailrace_http_requests_total{method="GET",route="/x",status="200"} 3' in text
