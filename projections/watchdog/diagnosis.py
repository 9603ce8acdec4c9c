"""`Diagnosis`: why a run does or does not move, as `why`, the command line and the watchdog alike give it.

`CAUSES` is the one list of causes: at which hop each stands, and whether it is recorded as a stall. Its order is the order
of precedence: what comes first explains what comes after it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Cause(msgspec.Struct, frozen=True):
    """At which hop a cause stands, and whether the watchdog records it in the run's log."""

    hop: str
    stall: bool


CAUSES: Final[dict[str, Cause]] = {
    "store-unreachable": Cause("store", stall=False),
    "log-diverged": Cause("store", stall=False),
    "store-full": Cause("store", stall=False),
    "orchestrator-behind": Cause("transition", stall=True),
    "report-rejected": Cause("transition", stall=True),
    "silent-ack": Cause("report", stall=True),
    "not-dispatched": Cause("dispatch", stall=True),
    "retry-budget": Cause("worker", stall=True),
    "poison": Cause("worker", stall=True),
    "identity-mismatch": Cause("delivery", stall=True),
    "crash-loop": Cause("worker", stall=True),
    "worker-lost": Cause("worker", stall=True),
    "no-worker": Cause("delivery", stall=True),
    "workers-hung": Cause("delivery", stall=True),
    "overdue": Cause("worker", stall=True),
    "dependency-open": Cause("worker", stall=True),
    "timer-overdue": Cause("timer", stall=True),
    "paused": Cause("person", stall=False),
    "backlog": Cause("delivery", stall=False),
    "projection-parked": Cause("projection", stall=False),
    "projection-behind": Cause("projection", stall=False),
}


class Secondary(msgspec.Struct, frozen=True, kw_only=True):
    """Something else that is true of the run, and does not explain it best."""

    cause: str
    hop: str
    summary: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run at the time `at` (RFC 3339; None when the store could not be asked for it).

    `cause` is one of `CAUSES`, or None: the run moves, waits as planned, or has ended. `healthy`: nobody needs to act.
    `status` is the run's, or `unknown`. `unreachable` names what could not be asked; nothing is concluded from it.
    """

    workflow_id: str
    status: str
    cause: str | None
    hop: str
    summary: str
    healthy: bool
    at: str | None
    suggestion: str = ""
    evidence: dict[str, Any] = {}
    secondary: tuple[Secondary, ...] = ()
    unreachable: tuple[str, ...] = ()
