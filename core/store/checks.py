"""What every back end asks of an append, or of a report, before it looks at the store: a wrong one is refused, and nothing is
written.
"""

from __future__ import annotations

from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput
from tailrace.core.store.port import Append, Delivery


def check_append(append: Append) -> None:
    """Raise `InvalidInput` naming all that is wrong with an append's arguments."""
    problems: list[str] = []
    _check_identity(append, problems)
    if append.records or append.rehydrate:
        _check_written(append, problems)
    else:
        _check_bare(append, problems)
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


def _check_identity(append: Append, problems: list[str]) -> None:
    if not append.workflow_id:
        problems.append("it names no workflow")
    if append.expected_version < 0:
        problems.append(f"version {append.expected_version} can't be")
    if append.rehydrate and append.expected_version == 0:
        problems.append("only a run that has a version can be rehydrated")


def _check_bare(append: Append, problems: list[str]) -> None:
    """Without events it compares the version and removes what caused it; it can't write anything else."""
    if append.expected_version == 0:
        problems.append("a run is created by at least one event")
    if append.outputs or append.dispatches or append.closings or append.timers_set:
        problems.append("without events nothing else may be written")


def _check_written(append: Append, problems: list[str]) -> None:
    state = append.state
    if state is None:
        problems.append("there is no state to store")
        return
    if state.workflow_id != append.workflow_id:
        problems.append(f"the state is that of {state.workflow_id!r}")
    if state.version != append.expected_version + len(append.records):
        problems.append(
            f"{len(append.records)} events on version {append.expected_version} don't give version {state.version}"
        )
    if append.created is None and (append.expected_version == 0 or append.rehydrate):
        problems.append("the first event is missing")
    if not state.terminal and append.expect_at is None:
        problems.append("an open run needs an expectation")
    problems += [
        f"task {dispatch.message.task_id!r} belongs to another run"
        for dispatch in append.dispatches
        if dispatch.message.workflow_id != append.workflow_id
    ]
