"""What is to be told of what the log says: pure, from events and the incidents that stand to incidents and notices.

Invariants: a fault that many runs share is told once when it begins and once when it is over, whatever the order of its runs;
one that comes back before it was quiet for long enough is the same one. A run that failed is told once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.events import (
    Event,
    StallCleared,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStalled,
)
from tailrace.core.notices import NAMED, FailedRun, Incident, Notice, NoticeKind, incident_key, shortened
from tailrace.projections.watchdog.diagnosis import CAUSES
from tailrace.projections.watchdog.findings import Finding

#: Types of events that are looked at; all others are passed over undecoded.
TOLD: Final = frozenset(
    kind.__name__ for kind in (WorkflowStalled, StallCleared, WorkflowFailed, WorkflowCompleted, WorkflowCancelled)
)

#: Stalls that only ever come with the failure of their run, which is told by itself.
_WITH_FAILURE: Final = frozenset({"retry-budget", "poison"})

MESSAGE_LIMIT: Final = 4_000
REASON_LIMIT: Final = 100


class TellingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds: how long a fault is watched before it is told, so that its runs can be counted; how long it has to be quiet
    to be over; and after how long it is not worth telling any more.
    """

    gather_seconds: float = 5.0
    quiet_seconds: float = 180.0
    stale_seconds: float = 24 * 3600.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An event out of the log, with its run, its place there and its time."""

    workflow_id: str
    version: int
    at: int
    event: Event


class Telling:
    """One step: takes events in, and says what has changed. `incidents` and `standing` as the book has them."""

    def __init__(self, incidents: Mapping[str, Incident], standing: Mapping[str, str], options: TellingOptions) -> None:
        self.notices: list[Notice] = []
        self._before = dict(incidents)
        self._incidents = dict(incidents)
        self._stood = dict(standing)
        self._standing = dict(standing)
        self._options = options

    @property
    def incidents(self) -> dict[str, Incident | None]:
        """Those that are not as before; None for one that is over."""
        keys = {**self._before, **self._incidents}
        return {key: self._incidents.get(key) for key in keys if self._incidents.get(key) != self._before.get(key)}

    @property
    def standing(self) -> dict[str, str | None]:
        """Runs that stand elsewhere than before, or not any more."""
        runs = {**self._stood, **self._standing}
        return {run: self._standing.get(run) for run in runs if self._standing.get(run) != self._stood.get(run)}

    def take(self, told: Sequence[Told], types: Mapping[str, str], now: int) -> None:
        """Take events in, in the order of their partition's log. `types`: what kind of pipeline a failed run was of."""
        for one in told:
            match one.event:
                case WorkflowStalled() as stalled if stalled.cause not in _WITH_FAILURE:
                    self._enter(one, stalled)
                case StallCleared() | WorkflowCompleted() | WorkflowCancelled():
                    self._leave(one)
                case WorkflowFailed() as failed:
                    self._leave(one)
                    self._fail(one, failed, types.get(one.workflow_id, ""), now)
                case _:
                    pass

    def see(self, finding: Finding, now: int, *, shows: bool) -> None:
        """Look at a fault that stands in no run's log: whether it `shows` now."""
        assert finding.cause is not None
        key = incident_key(finding.cause, finding.scope)
        known = self._incidents.get(key)
        if known is None and shows:
            known = opened(finding, now)
        if known is not None:
            if shows and known.quiet_since is not None:
                known = replace(known, returned=known.returned + 1, quiet_since=None)
            elif not shows and known.quiet_since is None:
                known = replace(known, quiet_since=now)
            self._incidents[key] = known

    def put(self, incident: Incident) -> None:
        """Take over a fault that was seen elsewhere. What was told of it stays told."""
        known = self._incidents.get(incident.key)
        told = incident.told or (known is not None and known.id == incident.id and known.told)
        self._incidents[incident.key] = replace(incident, told=told)

    def settle(self, now: int) -> None:
        """What time has decided: faults that were watched for long enough, and faults that are over."""
        for key, incident in list(self._incidents.items()):
            current = incident
            if not current.told and now - current.opened_at >= to_us(self._options.gather_seconds):
                current = self._incidents[key] = replace(current, told=True)
                self._tell(current, "incident-opened", current.opened_at, now)
            quiet_since = current.quiet_since
            if current.told and quiet_since is not None and now - quiet_since >= to_us(self._options.quiet_seconds):
                del self._incidents[key]
                self._tell(current, "incident-over", quiet_since, now)

    def _enter(self, one: Told, stalled: WorkflowStalled) -> None:
        scope = stalled.scope or f"run {one.workflow_id}"
        key = incident_key(stalled.cause, scope)
        if self._standing.get(one.workflow_id) == key:
            return
        self._leave(one)
        self._standing[one.workflow_id] = key
        known = self._incidents.get(key) or Incident(
            id=_id(key, f"{one.workflow_id}:{one.version}"),
            cause=stalled.cause,
            scope=scope,
            hop=stalled.hop,
            summary=shortened(stalled.summary),
            suggestion=shortened(stalled.suggestion),
            opened_at=one.at,
        )
        standing = known.standing + 1
        self._incidents[key] = replace(
            known,
            standing=standing,
            runs=max(known.runs, standing),
            named=tuple(dict.fromkeys([*known.named, one.workflow_id]))[:NAMED],
            returned=known.returned + (known.quiet_since is not None),
            quiet_since=None,
        )

    def _leave(self, one: Told) -> None:
        incident = self._incidents.get(self._standing.pop(one.workflow_id, ""))
        if incident is not None:
            standing = max(0, incident.standing - 1)
            self._incidents[incident.key] = replace(
                incident, standing=standing, quiet_since=None if standing else one.at
            )

    def _fail(self, one: Told, failed: WorkflowFailed, kind: str, now: int) -> None:
        if now - one.at > to_us(self._options.stale_seconds):
            return
        # (Its details may be of any size, and are not for everybody.)
        error = replace(failed.error, message=shortened(failed.error.message, MESSAGE_LIMIT), details={})
        run = FailedRun(
            workflow_id=one.workflow_id,
            type=kind,
            stage=failed.stage,
            error=error,
            last_reason=shortened(str(failed.error.details.get("last_reason", "")), REASON_LIMIT),
            not_compensated=failed.not_compensated,
        )
        notice_id = f"{one.workflow_id}:{one.version}"
        self.notices.append(Notice(id=notice_id, kind="run-failed", at=one.at, run=run))

    def _tell(self, incident: Incident, kind: NoticeKind, at: int, now: int) -> None:
        if now - at <= to_us(self._options.stale_seconds):
            self.notices.append(notice_of(incident, kind, at))


def opened(finding: Finding, now: int) -> Incident:
    """The incident that begins with a finding on what all runs share."""
    assert finding.cause is not None
    return Incident(
        id=_id(incident_key(finding.cause, finding.scope), str(now)),
        cause=finding.cause,
        scope=finding.scope,
        hop=CAUSES[finding.cause].hop,
        summary=shortened(finding.summary),
        suggestion=shortened(finding.suggestion),
        opened_at=now,
    )


def notice_of(incident: Incident, kind: NoticeKind, at: int) -> Notice:
    """What is told of an incident. The id is the same whoever tells it, and however often."""
    return Notice(id=f"{incident.id}:{kind}", kind=kind, at=at, incident=incident)


def failed_runs(told: Iterable[Told]) -> list[str]:
    """The runs among these whose failure is to be told."""
    return [one.workflow_id for one in told if isinstance(one.event, WorkflowFailed)]


def _id(key: str, began: str) -> str:
    """Derived from what began it, so that whoever finds it gives it the same name."""
    return hashlib.sha256(f"{key}\n{began}".encode()).hexdigest()[:20]
