"""Ids are spelled in one way and read back as what they were."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.core.clock import from_datetime, to_datetime, to_rfc3339, to_us
from tailrace.core.errors import Undecodable
from tailrace.core.ids import (
    TaskId,
    child_traceparent,
    idempotent_workflow_id,
    new_command_id,
    new_traceparent,
    new_workflow_id,
    span_id,
    span_id_of,
    trace_id_of,
)
from tailrace.core.partitioning import partition_of
from tailrace.core.testing.builders import TRACEPARENT, workflow_id_in

NOW = 1_767_323_045_678_901
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w:s:1", TaskId(workflow_id="w", stage="s", attempt=1)),
        ("w:s[0]:12", TaskId(workflow_id="w", stage="s", attempt=12, item=0)),
        ("0199-ab:end-to-end_test:3", TaskId(workflow_id="0199-ab", stage="end-to-end_test", attempt=3)),
    ],
)
def test_a_task_id_names_its_parts(text: str, expected: TaskId) -> None:
    """And is spelled as it was read."""
    assert TaskId.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "w",
        "w:s",
        "w:s:0",
        "w:s:-1",
        "w:s:01",
        "w:s:x",
        ":s:1",
        "w::1",
        "w:s[x]:1",
        "w:s[]:1",
        "w:s:1:2",
        "w:s:1\n",
        "w:s:٣",
        "w:s[٣]:1",
        "w:s[01]:1",
        "w:s:" + "9" * 5000,
    ],
)
def test_what_is_no_task_id_is_refused(text: str) -> None:
    """Also what only looks like one."""
    with pytest.raises(Undecodable):
        TaskId.parse(text)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_text_is_the_only_spelling_of_its_task_id(text: str) -> None:
    """Whatever can be read is spelled back to the same text, so that ids can be compared as text."""
    try:
        parsed = TaskId.parse(text)
    except Undecodable:
        return
    assert str(parsed) == text


def test_workflow_ids_sort_by_time() -> None:
    """A UUIDv7: version, variant and the milliseconds in front."""
    first, later = new_workflow_id(NOW), new_workflow_id(NOW + 1000)
    assert first < later
    parsed = uuid.UUID(first)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == NOW // 1000
    assert len({new_workflow_id(NOW) for _ in range(100)}) == 100


def test_an_idempotent_id_belongs_to_token_and_key() -> None:
    """The same for the same two, another one for anybody else."""
    assert idempotent_workflow_id("t", "k") == idempotent_workflow_id("t", "k")
    assert len({idempotent_workflow_id(token, key) for token in ("t", "u") for key in ("k", "l")}) == 4
    assert uuid.UUID(idempotent_workflow_id("t", "k")).version == 5


def test_span_ids_are_derived() -> None:
    """The same wherever they are computed, and different for different parts."""
    assert span_id(TRACE, "send", "w:s:1") == span_id(TRACE, "send", "w:s:1")
    assert len({span_id(TRACE, *parts) for parts in (("a",), ("a", "b"), ("b", "a"), ("ab",))}) == 4
    child = child_traceparent(TRACEPARENT, span_id(TRACE, "x"))
    assert (trace_id_of(child), span_id_of(child)) == (TRACE, span_id(TRACE, "x"))


def test_a_child_is_sampled_as_its_parent_is() -> None:
    """Who asked not to be traced is not traced further down either."""
    assert child_traceparent(TRACEPARENT[:-2] + "00", SPAN).endswith("-00")
    assert child_traceparent(TRACEPARENT[:-2] + "01", SPAN).endswith("-01")
    assert child_traceparent("nonsense", SPAN) == ""


def test_a_traceparent_is_read_back() -> None:
    """Trace and span."""
    assert (trace_id_of(TRACEPARENT), span_id_of(TRACEPARENT)) == (TRACE, SPAN)
    assert trace_id_of(new_traceparent()) != trace_id_of(new_traceparent())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_an_invalid_traceparent_has_no_trace(header: str) -> None:
    """W3C: all zeros, other versions' shapes and upper case are not valid."""
    assert trace_id_of(header) is None


def test_command_ids_are_unique() -> None:
    """They tell one attempt to append from another."""
    assert len({new_command_id() for _ in range(1000)}) == 1000


def test_a_workflow_lives_in_one_partition() -> None:
    """By CRC-32 of its id: other languages can work it out."""
    assert partition_of("run-1", 2**32) == 711_764_195
    assert {partition_of(f"run-{n}", 4) for n in range(100)} == {0, 1, 2, 3}
    assert [partition_of(workflow_id_in(2, 8, number=n), 8) for n in (1, 2, 3)] == [2, 2, 2]


@given(st.integers(0, 4_102_444_800_000_000))
@settings(max_examples=100, deadline=None)
def test_times_are_exact_to_the_microsecond(at_us: int) -> None:
    """There and back, through datetimes."""
    assert from_datetime(to_datetime(at_us)) == at_us


def test_times_are_spelled_as_rfc_3339() -> None:
    """In UTC, with six digits; no time stays no time."""
    assert to_rfc3339(NOW) == "2026-01-02T03:04:05.678901Z"
    assert to_rfc3339(None) is None
    assert to_us(0.1) == 100_000
