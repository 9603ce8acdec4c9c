"""The rules: from facts about a run to one verdict. Pure, so that each can be tried on facts alone.

Every open branch of a run is judged on its own; what stands explains more than what moves, and of several causes the one
that comes first in `CAUSES` explains the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tailrace.core.clock import to_rfc3339
from tailrace.core.workflow.definition import StageDefinition
from tailrace.core.workflow.dispatching import work_of
from tailrace.core.workflow.policy import TIMER_SLACK_US
from tailrace.core.workflow.state import Compensation, Ending, StageState
from tailrace.projections.watchdog import worker_findings as workers
from tailrace.projections.watchdog.facts import Facts
from tailrace.projections.watchdog.findings import Finding, Verdict, conclude, duration, moving
from tailrace.projections.watchdog.task_rules import task_findings
from tailrace.projections.watchdog.transition_rules import timer_late

#: What a fault belongs to that all runs share.
STORE: Final = "store"

#: Over this share of its memory a store refuses what it is asked to keep.
FULL: Final = 0.97


def judge(facts: Facts) -> Verdict:
    """Why the run does or does not move."""
    state = facts.state
    if state.terminal:
        return conclude(facts, list(_ended(facts)))
    findings = list(_open(facts))
    stands = any(finding.cause is not None and not finding.aside for finding in findings)
    if facts.fullness is not None and facts.fullness >= FULL:
        findings.append(store_full(facts.fullness, aside=not stands))
    return conclude(facts, findings)


def _ended(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    at = to_rfc3339(state.completed_at)
    if state.status == "completed":
        yield moving(f"completed at {at}: all {len(state.stages)} stages have their result")
        return
    failed = () if state.compensation is None else state.compensation.failed
    undone = f"; what stages {', '.join(failed)} did could not be undone" if failed else ""
    if state.status == "cancelled":
        yield moving(f"cancelled at {at}{undone}")
        return
    error, stage = state.error, state.current_stage
    reason = "unknown" if error is None else error.reason
    yield Finding(
        cause=reason if reason in {"retry-budget", "poison"} else None,
        summary=f"failed at {at} in stage {stage}: {reason}" + (f": {error.message}" if error else "") + undone,
        suggestion=f"tailrace retry {state.workflow_id}" + (f" --from-stage {stage}" if stage else ""),
        evidence={"stage": stage, "reason": reason, **({} if error is None else {"details": error.details})},
    )
    if error is not None and error.details.get("last_reason", reason) == "dependency-open":
        yield Finding(cause="dependency-open", summary=f"the last attempt failed: {error.message}", aside=True)


def _open(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    if facts.pipeline is None:
        yield moving(f"definition {state.definition} could not be read")
        return
    if state.status == "paused":
        since = "" if state.paused_at is None else f" since {duration(facts.now - state.paused_at)}"
        yield Finding(
            cause="paused",
            summary=f"paused{since}: nothing is dispatched, and the clocks of its stages stand still",
            suggestion=f"tailrace resume {state.workflow_id}",
            evidence={"paused_at": to_rfc3339(state.paused_at)},
        )
        return
    if state.compensation is not None and state.ending is not None:
        yield from _ending(facts, state.compensation, state.ending)
    nothing = state.compensation is None or state.compensation.grace_until is None
    for name, stage in state.stages.items():
        definition = work_of(facts.pipeline, state, name)
        if stage.task is not None:
            nothing = False
            yield from task_findings(facts, definition, stage.task)
        elif stage.retry_at is not None:
            nothing = False
            yield from _waiting_for_retry(facts, definition, stage, stage.retry_at)
    if nothing:
        yield Finding(
            cause="not-dispatched",
            summary="no task is open, none is planned, and the run has not ended",
            suggestion=f"tailrace pause {state.workflow_id} && tailrace resume {state.workflow_id}",
            evidence={"stages": {name: stage.status for name, stage in state.stages.items()}},
        )


def _ending(facts: Facts, compensation: Compensation, ending: Ending) -> Iterator[Finding]:
    """Why the run ends, how far its undoing is, and the handlers that it waits for."""
    why = f"cancelled ({ending.reason})" if ending.reason else ending.outcome
    if ending.error is not None:
        why = f"failed in stage {ending.stage} ({ending.error.reason})"
    over, left = len(compensation.compensated), len(compensation.left)
    undone = f"{over} undone, {left} left" + (f", {len(compensation.failed)} failed" if compensation.failed else "")
    yield moving(f"{why}; what its stages did is undone before it ends: {undone}")
    if compensation.grace_until is None:
        return
    if facts.now - compensation.grace_until >= TIMER_SLACK_US:
        yield timer_late(facts, "grace", compensation.grace_until, attempt=facts.state.round)
        return
    tasks = ", ".join(facts.task_id(told.stage, told.attempt) for told in compensation.told if told.awaited)
    rest = duration(max(0, compensation.grace_until - facts.now))
    yield moving(f"it waits for handlers that were told to stop ({tasks}), at most for another {rest}")


def _waiting_for_retry(
    facts: Facts, definition: StageDefinition, stage: StageState, retry_at: int
) -> Iterator[Finding]:
    if facts.now - retry_at >= TIMER_SLACK_US:
        yield timer_late(facts, "retry", retry_at, definition, attempt=stage.attempt)
        return
    error = stage.error
    failed = "" if error is None else f" ({error.reason}: {error.message})"
    agent = facts.agents.get(definition.agent)
    if agent is not None and error is not None and error.reason == "dependency-open":
        evidence = {**agent.evidence(), "stage": definition.name, "reason": error.reason, "details": error.details}
        yield workers.dependency_open(agent, aside=False, evidence=evidence)
        return
    yield moving(
        f"attempt {stage.attempt} of stage {definition.name} failed{failed}; the next one begins "
        f"in {duration(max(0, retry_at - facts.now))}"
    )


def store_full(fullness: float, *, aside: bool) -> Finding:
    """The store refuses what is new."""
    return Finding(
        cause="store-full",
        summary=f"the store is {fullness:.0%} full; it refuses what it is asked to keep",
        suggestion="tailrace doctor",
        evidence={"fullness": round(fullness, 4)},
        scope=STORE,
        aside=aside,
    )


def store_unreachable(problem: str) -> Finding:
    """Nothing can be asked or kept."""
    return Finding(
        cause="store-unreachable",
        summary=f"the store can't be reached, so no run moves: {problem}",
        suggestion="tailrace doctor",
        scope=STORE,
    )


def log_diverged(problem: str) -> Finding:
    """The store that answers is not the one that was joined, or not as it was."""
    return Finding(
        cause="log-diverged",
        summary=f"the store is not the one that was joined, and no run moves: {problem}",
        suggestion="tailrace doctor",
        scope=STORE,
    )
