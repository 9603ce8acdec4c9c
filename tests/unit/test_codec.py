"""The codec refuses what could not be stored, and gives back what it was given."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.core import upcasting
from tailrace.core.codec import (
    INLINE_LIMIT_BYTES,
    MAX_DEPTH,
    CommandRecord,
    EventData,
    check_value,
    decode,
    decode_command,
    decode_event,
    decode_report,
    encode,
    encode_event,
    encode_value,
    record_command,
    to_json,
)
from tailrace.core.commands import CancelWorkflow, Report, RetryWorkflow
from tailrace.core.errors import InvalidInput, Undecodable
from tailrace.core.events import EVENTS, TERMINAL, Failure, TaskFailed, WorkflowPaused
from tailrace.core.testing.builders import completed
from tailrace.core.workflow.state import WorkflowState

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8),
            children,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values)
@settings(max_examples=150, deadline=None)
def test_every_json_value_survives(value: Any) -> None:
    """As an output in a report, and as a value in an event."""
    report = Report(kind="completed", task_id="t", output=value)
    assert decode_report(encode(report)) == report
    check_value(value)
    assert msgspec.json.decode(to_json(value)) == value


@pytest.mark.hole("H22")
@pytest.mark.parametrize(
    ("value", "pointer", "what"),
    [
        ("a\x00b", "/", "NUL"),
        ({"a": ["x", "\x00"]}, "/a/1", "NUL"),
        ({"a\x00": 1}, "/", "NUL"),
        ({"a": {"b": math.nan}}, "/a/b", "finite"),
        ([1.0, math.inf], "/1", "finite"),
        ((-math.inf,), "/0", "finite"),
        ("\ud800", "/", "surrogate"),
        ({"k": "x\udfffy"}, "/k", "surrogate"),
        ({"\ud800": 1}, "/", "surrogate"),
        ({1: "a"}, "/", "not text"),
        ({"a": b"raw"}, "/a", "bytes"),
        ([bytearray(b"x")], "/0", "bytes"),
        ([2**64], "/0", "64 bits"),
        ({"n": -(2**63) - 1}, "/n", "64 bits"),
        ({"a/b": {"c~d": "\x00"}}, "/a~1b/c~0d", "NUL"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "/at", "datetime"),
    ],
)
def test_what_postgres_cannot_hold_is_refused(value: Any, pointer: str, what: str) -> None:
    """The message says where it is and what is wrong with it."""
    with pytest.raises(InvalidInput, match=what) as caught:
        check_value(value)
    assert str(caught.value).startswith(f"{pointer}: ")


@pytest.mark.hole("H22")
@pytest.mark.parametrize(
    "report",
    [
        Report(kind="completed", task_id="t", output={"a": ["x\x00"]}),
        Report(kind="completed", task_id="t", output=math.nan),
        Report(kind="progressed", task_id="t", fraction=math.inf),
        Report(kind="progressed", task_id="t", message="\x00"),
        Report(kind="failed", task_id="t", error=Failure(reason="r", details={"n": [math.nan]})),
        Report(kind="failed", task_id="t\x00"),
        Report(kind="completed", task_id="t", output=b"raw"),
        Report(kind="completed", task_id="t", output={b"raw": 1}),
        Report(kind="completed", task_id="t", output=[msgspec.msgpack.Ext(5, b"x")]),
        Report(kind="completed", task_id="t", output=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_report_with_such_a_value_is_undecodable(report: Report) -> None:
    """Wherever in the report it is: it never gets into the log."""
    with pytest.raises(Undecodable):
        decode_report(encode(report))


def test_a_report_with_a_lone_surrogate_is_undecodable() -> None:
    """Its bytes are not even text."""
    good = encode(Report(kind="completed", task_id="t", output="abc"))
    with pytest.raises(Undecodable):
        decode_report(good.replace(b"abc", b"\xed\xa0\x80"))


@pytest.mark.failure(11)
@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", encode([1, 2]), encode({"kind": 1, "task_id": "t"})])
def test_bytes_that_are_no_report_are_undecodable(data: bytes) -> None:
    """Never another exception: whoever reads parks them."""
    with pytest.raises(Undecodable):
        decode_report(data)


@given(st.binary(max_size=60) | st.lists(st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=1)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_no_bytes_bring_a_reader_down(damage: bytes | list[tuple[int, bytes]]) -> None:
    """Whatever stands in a stream is a report or is undecodable: one bad report can't stop a partition."""
    data = (
        damage
        if isinstance(damage, bytes)
        else encode(completed("run:stage:1", {"a": [1, 2.5, "ü", None, {"b": True}]}))
    )
    for position, byte in damage if isinstance(damage, list) else ():
        data = data[:position] + byte + data[position + 1 :]
    with contextlib.suppress(Undecodable):
        assert decode_report(data) == decode_report(encode(decode_report(data)))
    for event_type in EVENTS:
        with contextlib.suppress(Undecodable):
            decode_event(event_type, data)


def test_a_report_may_have_fields_of_a_later_version() -> None:
    """Workers and orchestrators are not updated at once."""
    data = encode({"kind": "started", "task_id": "t", "invented-later": {"x": 1}})
    assert decode_report(data) == Report(kind="started", task_id="t")


@pytest.mark.hole("H27")
def test_a_value_over_the_limit_belongs_into_an_artifact() -> None:
    """The limit counts encoded bytes; the value at the limit passes."""
    header = len(encode("x" * 300)) - 300
    assert len(encode_value("x" * (INLINE_LIMIT_BYTES - header), "output")) == INLINE_LIMIT_BYTES
    with pytest.raises(InvalidInput, match="artifact"):
        encode_value("x" * (INLINE_LIMIT_BYTES - header + 1), "output")


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}.__iter__()}, "\ud800", math.nan])
def test_a_value_that_cannot_be_encoded_is_refused(value: Any) -> None:
    """By name of what it was to become."""
    with pytest.raises(InvalidInput):
        encode_value(value, "output")


def test_deep_nesting_is_refused_and_not_fatal() -> None:
    """A value of any depth is an answer, not a crash."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    encode_value(value, "output")
    for _ in range(10_000):
        value = {"a": value}
    with pytest.raises(InvalidInput, match="nested"):
        encode_value(value, "output")
    with pytest.raises(Undecodable):
        decode_report(b"\x83\xa4kind\xa9completed\xa7task_id\xa1t\xa6output" + b"\x91" * 100_000 + b"\x01")


def test_an_event_survives_with_its_command() -> None:
    """The first event of a decision carries who decided, when and on what."""
    record = record_command(RetryWorkflow(from_stage="a"), command_id="c1", actor="me", now=7)
    event = TaskFailed(task_id="t", stage="s", attempt=2, error=Failure(reason="r", details={"a": [1]}), retry_at=9)
    decoded = decode_event("TaskFailed", encode_event(event, at=5, command=record))
    assert (decoded.at, decoded.event, decoded.command) == (5, event, record)
    assert decoded.command is not None
    assert decode_command(decoded.command) == RetryWorkflow(from_stage="a")


def test_every_event_has_a_decoder() -> None:
    """Also those that end a run."""
    assert set(EVENTS) >= TERMINAL
    for name, cls in EVENTS.items():
        assert cls.__name__ == name
        with pytest.raises(Undecodable):
            decode_event(name, b"\xc1")


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        ("NoSuchEvent", encode_event(WorkflowPaused(), at=1)),
        ("StageFailed", encode_event(WorkflowPaused(), at=1)),
        ("WorkflowPaused", encode({"event": {}})),
        ("WorkflowPaused", encode({"at": 1, "event": 5})),
    ],
)
def test_an_event_that_cannot_be_read_says_so(event_type: str, data: bytes) -> None:
    """Unknown type, missing fields, wrong shape."""
    with pytest.raises(Undecodable):
        decode_event(event_type, data)


@pytest.mark.parametrize(
    "record",
    [
        CommandRecord(id="c", type="NoSuchCommand", actor="a", now=1, payload=msgspec.Raw(encode({}))),
        CommandRecord(id="c", type="RetryWorkflow", actor="a", now=1, payload=msgspec.Raw(encode({"from_stage": 3}))),
        CommandRecord(id="c", type="CancelWorkflow", actor="a", now=1, payload=msgspec.Raw(b"\xc1")),
    ],
)
def test_a_command_that_cannot_be_read_says_so(record: CommandRecord) -> None:
    """By its type, when there is none of that name."""
    with pytest.raises(Undecodable):
        decode_command(record)


def test_a_command_is_stored_with_its_time() -> None:
    """What it was decided with is all that is needed to decide it again."""
    record = record_command(CancelWorkflow(reason="r"), command_id="c", actor="me", now=42)
    assert (record.id, record.type, record.actor, record.now) == ("c", "CancelWorkflow", "me", 42)
    assert decode_command(record) == CancelWorkflow(reason="r")


def test_bytes_of_another_shape_are_undecodable() -> None:
    """Also for structs without a decoder of their own."""
    with pytest.raises(Undecodable, match="WorkflowState"):
        decode(encode({"a": 1}), WorkflowState)


def old_event(schema: int, **fields: Any) -> bytes:
    """An event as an older version wrote it."""
    return encode(EventData(at=3, event=msgspec.Raw(encode(fields)), schema=schema))


def test_old_events_are_read_through_their_upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, up to today's shape; the log keeps the old bytes."""
    monkeypatch.setitem(upcasting.SCHEMAS, "WorkflowPaused", 3)
    monkeypatch.setitem(upcasting.UPCASTERS, ("WorkflowPaused", 1), lambda fields: {"why": fields["cause"]})
    monkeypatch.setitem(upcasting.UPCASTERS, ("WorkflowPaused", 2), lambda fields: {"reason": fields["why"] + "!"})
    assert decode_event("WorkflowPaused", old_event(1, cause="a")).event == WorkflowPaused(reason="a!")
    assert decode_event("WorkflowPaused", old_event(2, why="b")).event == WorkflowPaused(reason="b!")
    written = encode_event(WorkflowPaused(reason="c"), at=3)
    assert decode(written, EventData).schema == 3
    assert decode_event("WorkflowPaused", written).event == WorkflowPaused(reason="c")


def test_a_missing_upcaster_makes_an_event_undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As does an upcaster that does not find what it expects, or gives a wrong shape."""
    monkeypatch.setitem(upcasting.SCHEMAS, "WorkflowPaused", 3)
    monkeypatch.setitem(upcasting.UPCASTERS, ("WorkflowPaused", 2), lambda fields: {"reason": fields["why"]})
    for data in (old_event(1, cause="a"), old_event(2, other="b"), old_event(2, why=5)):
        with pytest.raises(Undecodable):
            decode_event("WorkflowPaused", data)


def test_an_event_of_a_later_schema_is_undecodable() -> None:
    """It is parked, and not read as something it is not."""
    with pytest.raises(Undecodable):
        decode_event("WorkflowPaused", old_event(2, reason=5))
