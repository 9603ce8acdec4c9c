"""Incidents: one fault that many runs share is said once, with a count, and once more when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from tailrace.core.workflow.policy import LONGEST_RECHECK_US, recheck_us
from tailrace.projections.watchdog.findings import Verdict, duration

log = logging.getLogger(__name__)

#: An incident that no run showed for two and a half times as long as its oldest stall waits for the next look is over.
OVER_LOOKS: Final = 2.5


@dataclass
class Incident:
    """A fault that stands: its cause, what it belongs to, since when, and the runs that were flagged for it.

    `seldom`: its runs are looked at as seldom as those that have stood for long.
    """

    cause: str
    scope: str
    since: int
    seen_at: int
    summary: str
    suggestion: str
    runs: int = 0
    seldom: bool = False
    announced: bool = field(default=False, repr=False)


class Incidents:
    """The faults that stand now, by cause and scope."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], Incident] = {}

    def seen(self, verdict: Verdict, now: int, *, flagged: bool, seldom: bool = False) -> None:
        """A run shows the fault; `flagged` when it was recorded just now."""
        diagnosis = verdict.diagnosis
        assert diagnosis.cause is not None
        incident = self.open.get((diagnosis.cause, verdict.scope))
        if incident is None:
            incident = self.open[diagnosis.cause, verdict.scope] = Incident(
                cause=diagnosis.cause,
                scope=verdict.scope,
                since=now,
                seen_at=now,
                summary=diagnosis.summary,
                suggestion=diagnosis.suggestion,
            )
        incident.seen_at = now
        incident.runs += flagged
        incident.seldom = incident.seldom or seldom

    def say(self, now: int) -> None:
        """After a round: one line for each incident that is new, and one for each that is over."""
        for key, incident in list(self.open.items()):
            if not incident.announced:
                incident.announced = True
                log.warning(
                    "%s, %s, %d runs so far: %s; try: %s",
                    incident.cause,
                    incident.scope,
                    incident.runs,
                    incident.summary,
                    incident.suggestion,
                )
            elif now - incident.seen_at > OVER_LOOKS * _wait_us(incident):
                del self.open[key]
                lasted = duration(incident.seen_at - incident.since)
                log.info("%s, %s is over: it lasted %s, %d runs", incident.cause, incident.scope, lasted, incident.runs)


def _wait_us(incident: Incident) -> int:
    """How long the oldest of its stalls waits for the next look, in microseconds."""
    return LONGEST_RECHECK_US if incident.seldom else recheck_us(incident.since, incident.seen_at)
