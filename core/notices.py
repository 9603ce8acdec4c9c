"""What people outside are told: a fault when it begins and when it is over, and each run that failed.

A notice has an id that is the same at each attempt to deliver it, so that a receiver can tell a repetition.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tailrace.core.events import Failure

#: How many runs of an incident are named, and how long a text may be, in characters.
NAMED: Final = 5
TEXT_LIMIT: Final = 2_000

NoticeKind = Literal["incident-opened", "incident-over", "run-failed"]


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fault that one run or many show, by cause and scope (`agent builder`, `run <id>`). Times in microseconds.

    `standing` runs are stalled by it now, `runs` is the most there were at the same time, `named` are a few of them. It
    `returned` so often after no run had stood any more, which is so since `quiet_since`. `told`: its beginning was.
    """

    id: str
    cause: str
    scope: str
    hop: str
    summary: str
    suggestion: str
    opened_at: int
    runs: int = 0
    standing: int = 0
    named: tuple[str, ...] = ()
    returned: int = 0
    quiet_since: int | None = None
    told: bool = False

    @property
    def key(self) -> str:
        """What it is found by: the same fault has the same key each time it comes."""
        return incident_key(self.cause, self.scope)


class FailedRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that failed: at which `stage`, why, and what of it could not be undone.

    `last_reason` is that of the last attempt, where the error is that there are no more.
    """

    workflow_id: str
    error: Failure
    last_reason: str = ""
    type: str = ""
    stage: str | None = None
    not_compensated: tuple[str, ...] = ()


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing to tell: about an `incident` or about a `run`. `at` is when it happened, in microseconds since the epoch."""

    id: str
    kind: NoticeKind
    at: int
    incident: Incident | None = None
    run: FailedRun | None = None

    @property
    def subject(self) -> str:
        """What it is about, in a few words."""
        if self.run is not None:
            return self.run.workflow_id
        return "" if self.incident is None else self.incident.scope


def incident_key(cause: str, scope: str) -> str:
    """What an incident is found by."""
    return f"{cause} {scope}"


def shortened(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text, cut where it is too long for a notice."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
