"""What every back end asks of an append, or of a report, before it looks at the store: a wrong one is refused, and nothing is
written.
"""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput
from tailrace.core.store.port import Append, Delivery


def check_append(append: Append) -> None:
    """Raise `InvalidInput` naming all that is wrong with an append's arguments."""
    problems = [*_identity(append), *(_written(append) if append.records or append.rehydrate else _bare(append))]
    if problems:
        raise InvalidInput(f"append to {append.workflow_id!r}: {'; '.join(problems)}")


def not_about(delivery: Delivery, report: Report) -> InvalidInput | None:
    """The refusal of a report that is sent with the delivery of another task; None when it is about its own.

    The fence lets through who holds the entry. With such a report they would lose it, and end the task of somebody else.
    """
    own = delivery.message.task_id
    if report.task_id == own:
        return None
    return InvalidInput(f"a report on task {report.task_id} was given for the delivery of task {own}")


def _identity(append: Append) -> Iterator[str]:
    if not append.workflow_id:
        yield "it names no workflow"
    if append.expected_version < 0:
        yield f"version {append.expected_version} can't be"
    if append.rehydrate and append.expected_version == 0:
        yield "only a run that has a version can be rehydrated"


def _bare(append: Append) -> Iterator[str]:
    """Without events it compares the version and removes what caused it; it can't write anything else."""
    if append.expected_version == 0:
        yield "a run is created by at least one event"
    if append.outputs or append.dispatches or append.closings or append.timers_set:
        yield "without events nothing else may be written"


def _written(append: Append) -> Iterator[str]:
    state = append.state
    if state is None:
        yield "there is no state to store"
        return
    if state.workflow_id != append.workflow_id:
        yield f"the state is that of {state.workflow_id!r}"
    if state.version != append.expected_version + len(append.records):
        yield f"{len(append.records)} events on version {append.expected_version} don't give version {state.version}"
    if append.created is None and (append.expected_version == 0 or append.rehydrate):
        yield "the first event is missing"
    if not state.terminal and append.expect_at is None:
        yield "an open run needs an expectation"
    for dispatch in append.dispatches:
        if dispatch.message.workflow_id != append.workflow_id:
            yield f"task {dispatch.message.task_id!r} belongs to another run"
