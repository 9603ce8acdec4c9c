"""The checks of a trial find what they are there for: a log with the fault in it does not pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tailrace.core.codec import encode_event
from tailrace.core.commands import CancelWorkflow, RetryWorkflow
from tailrace.core.events import StageCompleted, WorkflowCancelled, WorkflowPaused
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.builders import line
from tailrace.core.testing.history import History
from tailrace.core.workflow.history import Record
from tests.chaos import checks


@pytest.fixture
def run() -> History:
    """A run whose first attempt failed, that was cancelled in its second stage, and completed in its second round."""
    run = History(line("a", "b"))
    run.create()
    run.fail("a", retryable=True)
    run.fire("retry", "a")
    run.complete("a")
    run.do(CancelWorkflow())
    run.do(RetryWorkflow())
    run.complete("b")
    return run


def entries(records: list[Record]) -> dict[str, list[RawEntry]]:
    """A log of these records, dense whatever was done to them."""
    log = [
        RawEntry(
            partition=0,
            entry_id=record.entry_id,
            seq=number,
            workflow_id=record.workflow_id,
            version=number,
            type=type(record.event).__name__,
            traceparent=record.traceparent,
            data=encode_event(record.event, at=record.at, command=record.command),
        )
        for number, record in enumerate(records, 1)
    ]
    return {records[0].workflow_id: log}


def test_a_sound_log_passes(run: History) -> None:
    """Two rounds, three attempts with an outcome."""
    log = entries(run.records)
    assert checks.rounds(log) == 2
    assert checks.outcomes(log) == 3


@pytest.mark.parametrize("check", [checks.outcomes, checks.rounds])
def test_a_second_outcome_is_found(run: History, check: Callable[[checks.Histories], int]) -> None:
    """An attempt that completes twice: one outcome too many, and behind the end."""
    last = next(record for record in reversed(run.records) if isinstance(record.event, StageCompleted))
    with pytest.raises(AssertionError):
        check(entries([*run.records, last]))


def test_an_event_behind_the_end_is_found(run: History) -> None:
    """A cancelled run that is paused, and no round between the two."""
    end = next(place for place, record in enumerate(run.records) if isinstance(record.event, WorkflowCancelled))
    paused = replace(run.records[end], event=WorkflowPaused(), command=None)
    with pytest.raises(AssertionError):
        checks.rounds(entries([*run.records[: end + 1], paused]))
