"""`Finding`: what one rule says of a run or of one of its tasks, and how several become one diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tailrace.core.clock import SECOND, to_rfc3339
from tailrace.core.commands import FireTimer, RedispatchTask
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary
from tailrace.projections.watchdog.facts import Facts

_RANK: Final = {cause: rank for rank, cause in enumerate(CAUSES)}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`cause` is None for what moves or waits as planned.

    `sure`: it does not heal itself any more, so the watchdog may record it. `watching`: one look was not enough to tell.
    `scope` is what the fault belongs to (an agent, a partition), so that many runs with one fault are one incident.
    `aside`: true, but it never explains by itself why a run stands. `repair` mends it, and is certain to harm nothing.
    """

    cause: str | None
    summary: str
    suggestion: str = ""
    evidence: dict[str, Any] = {}
    sure: bool = True
    watching: bool = False
    scope: str = ""
    aside: bool = False
    repair: RedispatchTask | FireTimer | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A diagnosis with what the watchdog needs besides it."""

    diagnosis: Diagnosis
    is_stall: bool
    watching: bool
    scope: str
    repair: RedispatchTask | FireTimer | None = None


def moving(summary: str, *, watching: bool = False, evidence: dict[str, Any] | None = None) -> Finding:
    """All is well as far as this goes."""
    return Finding(cause=None, summary=summary, watching=watching, evidence=evidence or {})


def conclude(facts: Facts, findings: Sequence[Finding]) -> Verdict:
    """The finding that explains best, the others beside it."""
    main = [finding for finding in findings if not finding.aside]
    ranked = sorted(
        (finding for finding in main if finding.cause is not None), key=lambda found: _RANK[found.cause or ""]
    )
    calm = [finding for finding in main if finding.cause is None]
    primary = next(iter([*ranked, *calm]))
    beside = [finding for finding in findings if finding is not primary and finding.cause not in {None, primary.cause}]
    cause = primary.cause
    state = facts.state
    diagnosis = Diagnosis(
        workflow_id=state.workflow_id,
        status=state.status,
        cause=cause,
        hop="" if cause is None else CAUSES[cause].hop,
        summary=primary.summary if cause is not None else "; ".join(dict.fromkeys(found.summary for found in calm)),
        healthy=cause in {None, "backlog"} and state.status != "failed" and not facts.unreachable,
        at=to_rfc3339(facts.now),
        suggestion=primary.suggestion,
        evidence=primary.evidence,
        secondary=tuple(_secondaries(beside)),
        unreachable=facts.unreachable,
    )
    is_stall = cause is not None and CAUSES[cause].stall and primary.sure and not state.terminal
    return Verdict(
        diagnosis=diagnosis,
        is_stall=is_stall,
        repair=primary.repair if is_stall else None,
        watching=any(finding.watching for finding in main),
        scope=primary.scope or f"run {state.workflow_id}",
    )


def _secondaries(findings: Sequence[Finding]) -> list[Secondary]:
    """One per cause, by precedence."""
    by_cause = {finding.cause: finding for finding in reversed(findings) if finding.cause is not None}
    return [
        Secondary(cause=cause, hop=CAUSES[cause].hop, summary=by_cause[cause].summary)
        for cause in CAUSES
        if cause in by_cause
    ]


def duration(us: int) -> str:
    """`0.4 s`, `12 s`, `3 min`, `2 h`: for people."""
    seconds = us / SECOND
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
