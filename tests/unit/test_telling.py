"""What is told of which events: faults by cause and scope, and runs that failed. Pure, with times as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from tailrace.core.clock import SECOND
from tailrace.core.events import (
    Event,
    Failure,
    StallCleared,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStalled,
)
from tailrace.core.notices import Incident, Notice
from tailrace.projections.watchdog.telling import Telling, TellingOptions, Told

OPTIONS = TellingOptions(gather_seconds=5.0, quiet_seconds=60.0, stale_seconds=3600.0)
START = 1_000_000 * SECOND


class Book:
    """What a notice book would hold, over several steps; each event comes at the second it is given with."""

    def __init__(self) -> None:
        self.incidents: dict[str, Incident] = {}
        self.standing: dict[str, str] = {}
        self.told: list[Notice] = []
        self._versions = count(1)

    def step(self, now: float, *events: tuple[str, Event], at: float | None = None) -> list[str]:
        """Take events of runs in at `now`; gives what was told by it."""
        happened = START + round((now if at is None else at) * SECOND)
        told = [Told(workflow_id=run, version=next(self._versions), at=happened, event=event) for run, event in events]
        telling = Telling(self.incidents, self.standing, OPTIONS)
        telling.take(told, {"run-1": "app"}, START + round(now * SECOND))
        telling.settle(START + round(now * SECOND))
        incidents = {**self.incidents, **telling.incidents}
        standing = {**self.standing, **telling.standing}
        self.incidents = {key: incident for key, incident in incidents.items() if incident is not None}
        self.standing = {run: key for run, key in standing.items() if key is not None}
        self.told += telling.notices
        return [notice.kind for notice in telling.notices]

    def last(self) -> Incident:
        """The incident that was told last."""
        incident = self.told[-1].incident
        assert incident is not None
        return incident


def stalled(cause: str = "no-worker", scope: str = "agent builder") -> WorkflowStalled:
    """A fault."""
    return WorkflowStalled(cause=cause, hop="delivery", summary="nobody is there", suggestion="start one", scope=scope)


CLEARED = StallCleared(cause="no-worker")


def runs(number: int) -> Sequence[str]:
    """Names of runs."""
    return [f"run-{index}" for index in range(1, number + 1)]


def test_ten_thousand_runs_with_one_fault_are_one_notice() -> None:
    """Told after it was watched for a while, with their number and a few names; and once more when the last one moved."""
    book = Book()
    assert book.step(0, *((run, stalled()) for run in runs(10_000))) == []
    assert book.step(5) == ["incident-opened"]
    opened = book.last()
    assert (opened.runs, opened.standing, opened.named) == (10_000, 10_000, tuple(runs(5)))
    assert book.step(10, *((run, CLEARED) for run in runs(9_999))) == []
    assert book.step(500) == []
    assert book.step(600, ("run-10000", CLEARED)) == []
    assert book.step(659) == []
    assert book.step(660) == ["incident-over"]
    over = book.last()
    assert (over.id, over.runs, over.standing, over.quiet_since) == (opened.id, 10_000, 0, START + 600 * SECOND)
    assert (book.incidents, book.standing) == ({}, {})
    assert len({notice.id for notice in book.told}) == 2


def test_what_comes_back_soon_is_the_same_incident() -> None:
    """It is told once however often, and says how often it came back; after it was over it is another one."""
    book = Book()
    for round_ in range(5):
        book.step(50 * round_, ("run-1", stalled()))
        book.step(50 * round_ + 20, ("run-1", CLEARED))
    assert [notice.kind for notice in book.told] == ["incident-opened"]
    assert book.step(300) == ["incident-over"]
    first = book.last()
    assert (first.returned, first.runs) == (4, 1)
    book.step(400, ("run-1", stalled()))
    assert book.step(405) == ["incident-opened"]
    assert (book.last().returned, book.last().id == first.id) == (0, False)


def test_other_causes_and_scopes_are_other_incidents() -> None:
    """Of a fault that is a run's own, there is one for each run."""
    book = Book()
    book.step(0, ("run-1", stalled()), ("run-2", stalled(scope="agent tester")), ("run-3", stalled("overdue", "")))
    book.step(1, ("run-4", stalled("overdue", "")))
    assert book.step(9) == ["incident-opened"] * 4
    scopes = [notice.subject for notice in book.told]
    assert scopes == ["agent builder", "agent tester", "run run-3", "run run-4"]


def test_a_run_stands_in_one_incident() -> None:
    """With another cause it leaves the first; when it ends, however it does, it leaves that."""
    book = Book()
    book.step(0, ("run-1", stalled()), ("run-2", stalled()), ("run-3", stalled()))
    book.step(1, ("run-1", stalled("workers-hung")), ("run-2", WorkflowCancelled()), ("run-3", WorkflowCompleted()))
    standing = {incident.cause: incident.standing for incident in book.incidents.values()}
    assert standing == {"no-worker": 0, "workers-hung": 1}
    book.step(2, ("run-1", WorkflowFailed(error=Failure(reason="broken"))))
    assert {incident.standing for incident in book.incidents.values()} == {0}
    assert book.standing == {}


def test_a_failed_run_is_told_once() -> None:
    """With its stage and its error, but not with its details, which may be of any size; not as a stall besides."""
    book = Book()
    error = Failure(
        reason="retry-budget", message="x" * 9_000, details={"secret": "of a person", "last_reason": "no-disk"}
    )
    failing = stalled("retry-budget", ""), WorkflowFailed(error=error, stage="build", not_compensated=("rent",))
    assert book.step(0, *(("run-1", event) for event in failing)) == ["run-failed"]
    run = book.told[0].run
    assert run is not None
    assert (run.workflow_id, run.type, run.stage, run.not_compensated) == ("run-1", "app", "build", ("rent",))
    assert run.last_reason == "no-disk"
    assert (run.error.reason, len(run.error.message), run.error.details) == ("retry-budget", 4_000, {})
    assert book.step(600) == []


def test_what_is_long_past_is_not_told() -> None:
    """A watchdog that was away for long does not begin with old stories; what still stands it counts right."""
    book = Book()
    error = Failure(reason="broken")
    assert book.step(9_000, ("run-1", WorkflowFailed(error=error)), ("run-2", stalled()), at=0) == []
    assert [incident.standing for incident in book.incidents.values()] == [1]
    assert book.step(9_001, ("run-2", CLEARED)) == []
    assert book.step(9_100) == ["incident-over"]
