"""Definitions are validated whole, and every problem is named by its place."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.core.errors import InvalidInput
from tailrace.core.testing.builders import diamond, pipeline, stage
from tailrace.core.workflow.definition import MAX_STAGES, Pipeline, RetryPolicy, parse_definition

A: dict[str, Any] = {"name": "a", "agent": "x"}
B: dict[str, Any] = {"name": "b", "agent": "x"}


def document(*stages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A definition as it comes from outside."""
    return {"name": "p", "stages": list(stages), **fields}


def problems(source: Any) -> dict[str, str]:
    """What is wrong with a definition: pointer to detail."""
    with pytest.raises(InvalidInput) as caught:
        parse_definition(source)
    return {error.pointer: error.detail for error in caught.value.errors}


def test_a_stage_needs_little() -> None:
    """A name and an agent; the rest has defaults."""
    definition = parse_definition(document(A, {**B, "needs": ["a"], "retry": {"max_attempts": 1}}))
    assert [found.name for found in definition.stages] == ["a", "b"]
    assert definition.stages[0].timeout_seconds == 600.0
    assert definition.stages[0].retry == RetryPolicy()
    assert definition.stages[1].retry.max_attempts == 1


@pytest.mark.parametrize(
    ("source", "pointer"),
    [
        ([], ""),
        ({"stages": [A]}, ""),
        (document(A, extra=1), ""),
        (document({**A, "agnet": "x"}), "/stages/0"),
        (document(A, {"name": "b"}), "/stages/1"),
        (document({**A, "weight": -1}), "/stages/0/weight"),
        (document({**A, "needs": [1]}), "/stages/0/needs/0"),
        (document({**A, "params": 5}), "/stages/0/params"),
        (document({**A, "compensate": "x"}), "/stages/0/compensate"),
        (document({**A, "compensate": {}}), "/stages/0/compensate"),
        (document({**A, "compensate": {"agent": "No name"}}), "/stages/0/compensate/agent"),
        (document({**A, "compensate": {"agent": "x", "retry": {"factor": 0}}}), "/stages/0/compensate/retry/factor"),
        (document(A, cancel_grace_seconds=0), "/cancel_grace_seconds"),
        (document({**A, "retry": {"max_attempts": 0}}), "/stages/0/retry/max_attempts"),
        (document({**A, "retry": {"max_attempts": 101}}), "/stages/0/retry/max_attempts"),
        (document({**A, "retry": {"factor": 0.5}}), "/stages/0/retry/factor"),
        (document({**A, "retry": {"backoff_seconds": math.nan}}), "/stages/0/retry/backoff_seconds"),
        (document({**A, "timeout_seconds": 0}), "/stages/0/timeout_seconds"),
        (document({**A, "timeout_seconds": math.nan}), "/stages/0/timeout_seconds"),
        (document({**A, "timeout_seconds": math.inf}), "/stages/0/timeout_seconds"),
        (document({**A, "start_timeout_seconds": "soon"}), "/stages/0/start_timeout_seconds"),
        (document(A, name="P"), "/name"),
        (document(A, name=""), "/name"),
        (document(A, name="p\n"), "/name"),
        (document(A, name="p" * 65), "/name"),
        (document({**A, "name": "1a"}), "/stages/0/name"),
        (document({**A, "name": "a:b"}), "/stages/0/name"),
        (document({**A, "name": "a|b"}), "/stages/0/name"),
        (document({**A, "name": "a\n"}), "/stages/0/name"),
        (document({**A, "agent": ""}), "/stages/0/agent"),
        (document({**A, "agent": "x:high"}), "/stages/0/agent"),
        (document({**A, "needs": ["b"]}), "/stages/0/needs/0"),
        (document({**A, "needs": ["a"]}), "/stages/0/needs"),
        (document(A, {**B, "name": "a"}), "/stages/1/name"),
        (document(), "/stages"),
        (document({**A, "weight": 0}), "/stages"),
        (document({**A, "params": {"x": "\x00"}}), "/stages/0/params/x"),
        (document({**A, "params": {"x": [math.nan]}}), "/stages/0/params/x/0"),
        (document({**A, "params": {"x": "\ud800"}}), "/stages/0/params/x"),
        (document({**A, "params": {"x": 2**64}}), "/stages/0/params/x"),
        (document({**A, "action": "\x00"}), "/stages/0/action"),
        (document(A, description="\ud800"), "/description"),
    ],
)
def test_a_wrong_definition_says_where(source: Any, pointer: str) -> None:
    """As a JSON pointer."""
    found = problems(source)
    assert list(found) == [pointer]
    assert found[pointer]


def test_all_problems_are_told_at_once() -> None:
    """So that nobody mends one after the other."""
    found = problems(document({**A, "agent": "X"}, {**B, "name": "a", "needs": ["a", "c"]}, name="P"))
    assert set(found) == {"/name", "/stages/0/agent", "/stages/1/name", "/stages/1/needs/1"}


def test_only_the_stages_of_a_circle_are_to_blame() -> None:
    """Not those that come before it, nor those that wait for it."""
    stages = [
        {**A, "name": "before"},
        {**A, "name": "one", "needs": ["before", "three"]},
        {**A, "name": "two", "needs": ["one"]},
        {**A, "name": "three", "needs": ["two"]},
        {**A, "name": "behind", "needs": ["three"]},
    ]
    assert set(problems(document(*stages))) == {"/stages/1/needs", "/stages/2/needs", "/stages/3/needs"}


def test_a_definition_has_a_limit() -> None:
    """And at the limit it is accepted."""
    stages = [{**A, "name": f"s{n}"} for n in range(MAX_STAGES + 1)]
    assert len(parse_definition(document(*stages[:-1])).stages) == MAX_STAGES
    assert set(problems(document(*stages))) == {"/stages"}


def test_the_hash_belongs_to_the_content() -> None:
    """The order of fields and of keys in params does not count, everything else does."""
    one = parse_definition(document({"agent": "x", "name": "a", "params": {"k": 1, "l": 2}}))
    same = parse_definition({"stages": [{"params": {"l": 2, "k": 1}, "name": "a", "agent": "x"}], "name": "p"})
    assert one.content_hash() == same.content_hash()
    others = [
        document({**A, "params": {"k": 1}}),
        document(A, B),
        document(B, A),
        document({**A, "weight": 2}),
        document(A, name="q"),
    ]
    hashes = {parse_definition(other).content_hash() for other in others}
    assert len(hashes | {one.content_hash()}) == len(others) + 1
    assert all(len(found) == 64 for found in hashes)


def test_a_pipeline_knows_what_comes_before_and_after() -> None:
    """Directly and through others, in the definition's order."""
    found = diamond()
    assert found.ancestors == {
        "start": (),
        "left": ("start",),
        "right": ("start",),
        "join": ("start", "left", "right"),
    }
    assert found.descendants["start"] == {"left", "right", "join"}
    assert found.descendants["join"] == frozenset()
    assert pipeline(stage("a", agent="x"), stage("b", agent="y"), stage("c", agent="x")).agents == ("x", "y")


def test_stages_may_be_written_in_any_order() -> None:
    """What a stage needs may stand behind it."""
    found = pipeline(stage("last", "middle"), stage("middle", "first"), stage("first"))
    assert found.ancestors["last"] == ("middle", "first")
    assert found.descendants["first"] == {"middle", "last"}


@given(st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_graph_is_a_pipeline_or_says_why_not(needs: list[list[int]]) -> None:
    """Never an endless loop, and an accepted one has an order."""
    stages = [{**A, "name": f"s{n}", "needs": [f"s{need}" for need in of]} for n, of in enumerate(needs)]
    try:
        found = Pipeline(parse_definition(document(*stages)))
    except InvalidInput:
        assert problems(document(*stages))
        return
    for name, ancestors in found.ancestors.items():
        assert name not in ancestors
        assert set(found.stages[name].needs) <= set(ancestors)


def test_a_definition_without_compensation_keeps_its_hash() -> None:
    """As it was before there was any: runs know their definition by it."""
    assert diamond().hash == "b22acb1ad0d718625dd38b0eb3cd0bfbb495f293353cde48f5059f5ef4158daa"
    assert Pipeline(parse_definition(document(A))).compensations == {}


def test_a_compensation_is_work_of_its_own() -> None:
    """Another agent, an action that is never the stage's own, and a limit and attempts of its own."""
    compensate = {"agent": "y", "timeout_seconds": 5.0, "retry": {"max_attempts": 7}}
    stages = ({**A, "action": "make", "start_timeout_seconds": 1.0, "compensate": compensate}, {**B, "needs": ["a"]})
    pipeline = Pipeline(parse_definition(document(*stages, cancel_grace_seconds=2.5)))
    assert pipeline.agents == ("x", "y")
    assert pipeline.cancel_grace_us == 2_500_000
    (undoing,) = pipeline.compensations.values()
    assert (undoing.name, undoing.agent, undoing.action) == ("a", "y", "compensate-make")
    assert (undoing.timeout_seconds, undoing.start_timeout_seconds, undoing.retry.max_attempts) == (5.0, None, 7)
    plain = Pipeline(parse_definition(document({**A, "compensate": {"agent": "x", "action": "undo"}})))
    assert (plain.compensations["a"].action, plain.cancel_grace_us) == ("undo", 10_000_000)
    assert plain.hash != Pipeline(parse_definition(document(A))).hash
