"""What tasks are given along: the request and the outputs they read, as long as all of it is small."""

from __future__ import annotations

from tailrace.core.codec import encode
from tailrace.core.commands import ApplyReport
from tailrace.core.engine.plan import plan
from tailrace.core.events import WorkflowCreated
from tailrace.core.store.inputs import GIVEN_BYTES, Carried, carry, carry_on
from tailrace.core.store.port import TaskMessage
from tailrace.core.testing.builders import TRACEPARENT, completed, line
from tailrace.core.testing.history import History
from tailrace.core.workflow.history import DecidedEvent


def created(**fields: object) -> WorkflowCreated:
    """The first event of a run."""
    return WorkflowCreated(definition="d", type="t", name="n", stages=(), **fields)  # type: ignore[arg-type]


def dispatched(run: History, *, output: object, carried: Carried | None) -> TaskMessage:
    """The task of the second stage, whose first gives this output."""
    before = run.state
    position = len(run.records)
    run.do(ApplyReport(report=completed("run-1:a:1", output)))
    decided = [DecidedEvent(event=item.event, at=item.at, command=item.command) for item in run.records[position:]]
    append = plan(run.pipeline, before, run.state, decided, traceparents=[TRACEPARENT] * len(decided), carried=carried)
    (dispatch,) = append.dispatches
    return dispatch.message


def test_a_task_is_given_what_it_reads() -> None:
    """Also the output that the same append stores."""
    run = History(line("a", "b"))
    run.create()
    message = dispatched(run, output={"n": 1}, carried=carry(created(input={"k": 1}), {}))
    assert message.given is not None
    assert (message.given.name, message.given.input) == ("n", {"k": 1})
    assert message.given.outputs == [encode({"n": 1})]


def test_what_is_too_much_is_named_only() -> None:
    """A large output, and the tasks behind it; a large request, and all tasks."""
    run = History(line("a", "b"))
    run.create()
    message = dispatched(run, output="x" * GIVEN_BYTES, carried=carry(created(), {}))
    assert (message.given, message.inputs) == (None, (("a", 1),))
    assert carry(created(requirements="x" * GIVEN_BYTES), {}) is None
    assert carry_on(None, {"a:1": b"1"}) is None
    small = carry(created(), {})
    assert small is not None
    full = carry_on(small, {"a:1": b"x" * (GIVEN_BYTES - small.size)})
    assert full is not None
    assert full.size == GIVEN_BYTES
    assert carry_on(full, {"b:1": b"x"}) is None


def test_a_run_that_is_not_known_whole_gives_nothing() -> None:
    """What an output that was not read would be is not guessed."""
    run = History(line("a", "b"))
    run.create()
    assert dispatched(run, output=1, carried=None).given is None
    carried = carry(created(), {"a:1": b"1"})
    assert carried is not None
    assert carried.given_to([("a", 1), ("b", 1)]) is None
