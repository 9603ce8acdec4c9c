"""Rules on what an orchestrator has to do: reports that wait, timers that are late, entries that are gone. Pure."""

from __future__ import annotations

from typing import Any, Final

from tailrace.core.clock import SECOND, to_rfc3339, to_us
from tailrace.core.commands import FireTimer, RedispatchTask
from tailrace.core.workflow.definition import StageDefinition
from tailrace.core.workflow.state import OpenTask
from tailrace.projections.watchdog.facts import HEALS_US, Facts
from tailrace.projections.watchdog.findings import Finding, duration, moving

#: The oldest report is the same at two looks so far apart: nobody applies reports.
_STILL_US: Final = to_us(0.9)


def partition_stands(facts: Facts) -> bool:
    """Whether reports wait for longer than an orchestrator needs to take a partition over, and none is applied."""
    reports, orchestration = facts.reports, facts.orchestration
    if reports is None or orchestration is None or not orchestration.reports:
        return False
    return orchestration.oldest_report_age_us >= HEALS_US and (not facts.has_owner or reports.still_us >= _STILL_US)


def orchestrator_behind(facts: Facts, what: str, *, sure: bool = True) -> Finding:
    """Nobody, or nobody who moves, applies what waits."""
    found = facts.orchestration
    assert found is not None
    if facts.has_owner:
        why = f"orchestrator {found.owner} owns partition {facts.partition} and does not move"
    elif found.owner_until:
        why = f"partition {facts.partition} has no orchestrator; the last one was {found.owner or 'given up'}"
    else:
        why = f"partition {facts.partition} never had an orchestrator"
    return Finding(
        cause="orchestrator-behind",
        summary=f"{why}; {what}",
        suggestion="tailrace orchestrator" if not facts.has_owner else "tailrace doctor",
        evidence=_evidence(facts),
        sure=sure,
        scope=f"partition {facts.partition}",
    )


def waiting_report(facts: Facts, stage: StageDefinition, task_id: str) -> Finding:
    """A report on the task is there, and not yet applied."""
    assert facts.reports is not None
    before = facts.reports.places[task_id]
    what = f"a report on stage {stage.name} waits to be applied, {before} before it"
    if facts.orchestration is None:
        return moving(what)
    if partition_stands(facts) or not facts.has_owner:
        return orchestrator_behind(facts, what, sure=partition_stands(facts))
    slow = facts.orchestration.oldest_report_age_us >= HEALS_US
    return moving(what, watching=slow, evidence=_evidence(facts))


def fire(facts: Facts, kind: str, stage: str, attempt: int, due_at: int) -> FireTimer | None:
    """What does the timer's work, unless a report may wait that it would overtake."""
    if facts.reports is None or not facts.reports.complete or facts.task_id(stage, attempt) in facts.reports.places:
        return None
    return FireTimer(kind=kind, stage=stage, attempt=attempt, due_at=due_at)


def timer_late(facts: Facts, kind: str, due_at: int, stage: StageDefinition | None = None, *, attempt: int) -> Finding:
    """A timer's time is past by more than its slack: one of an attempt of a stage, or of the run's round."""
    of = "" if stage is None else f" of stage {stage.name}"
    late = f"the {kind} timer{of} is {duration(facts.now - due_at)} late"
    if facts.orchestration is None:
        return moving(f"{late}; its orchestrator could not be asked about")
    if not facts.has_owner or partition_stands(facts):
        return orchestrator_behind(facts, late)
    return Finding(
        cause="timer-overdue",
        summary=f"{late}, and nothing fired",
        # A pause and its end set every timer of the run anew.
        suggestion=f"tailrace pause {facts.state.workflow_id} && tailrace resume {facts.state.workflow_id}",
        evidence={
            **_evidence(facts),
            "timer": kind,
            "stage": None if stage is None else stage.name,
            "late_seconds": (facts.now - due_at) // SECOND,
        },
        scope=f"partition {facts.partition}",
        repair=fire(facts, kind, "" if stage is None else stage.name, attempt, due_at),
    )


def task_gone(facts: Facts, stage: StageDefinition, task: OpenTask, task_id: str, *, still: bool) -> Finding:
    """The task's entry is not in its stream, and no report on it waits."""
    assert facts.reports is not None
    assert facts.orchestration is not None
    gone = f"the entry of task {task_id} is gone"
    if not facts.reports.complete:
        what = f"{gone}, and its report may be among the {facts.orchestration.reports} that wait"
        return orchestrator_behind(facts, what) if partition_stands(facts) else moving(what)
    if not still:
        return moving(f"{gone}; it was looked at only once", watching=True)
    evidence = {**_evidence(facts), "stage": stage.name, "task_id": task_id, "worker": task.worker}
    again = f"tailrace cancel {facts.state.workflow_id} && "
    again += f"tailrace retry {facts.state.workflow_id} --from-stage {stage.name}"
    if facts.rejected is None:
        return moving(f"{gone}; which reports could not be applied could not be asked")
    # (Its task's name may have been what could not be read.)
    rejected = [entry for entry in facts.rejected if entry.task_id in {"", task_id} and entry.at >= task.dispatched_at]
    if rejected:
        return Finding(
            cause="report-rejected",
            summary=f"{gone}: a report on it came, could not be applied and is parked: {rejected[0].reason}",
            suggestion=again,
            evidence={**evidence, "reason": rejected[0].reason, "rejected_at": to_rfc3339(rejected[0].at)},
        )
    if task.started_at is None:
        return Finding(
            cause="not-dispatched",
            summary=f"{gone} without having been taken: somebody removed it from the stream",
            suggestion=again,
            evidence=evidence,
            repair=RedispatchTask(task_id=task_id, reason="the watchdog found its entry gone from the stream"),
        )
    return Finding(
        cause="silent-ack",
        summary=f"{gone} and there is no report on it: somebody acknowledged it without one",
        suggestion=again,
        evidence=evidence,
        repair=RedispatchTask(task_id=task_id, reason="the watchdog found its entry gone, and no report on it"),
    )


def task_acknowledged(facts: Facts, stage: StageDefinition, task: OpenTask, task_id: str, *, still: bool) -> Finding:
    """The task's entry is in its stream, was delivered, and is nobody's. A holder that lives finds that at its renewal."""
    again = f"tailrace cancel {facts.state.workflow_id} && "
    again += f"tailrace retry {facts.state.workflow_id} --from-stage {stage.name}"
    return Finding(
        cause="silent-ack",
        summary=f"task {task_id} was taken and is nobody's any more: somebody acknowledged it without a report",
        suggestion=again,
        evidence={**_evidence(facts), "stage": stage.name, "task_id": task_id, "worker": task.worker},
        sure=still,
        repair=RedispatchTask(task_id=task_id, reason="the watchdog found it acknowledged without a report"),
    )


def _evidence(facts: Facts) -> dict[str, Any]:
    found = facts.orchestration
    assert found is not None
    return {
        "partition": facts.partition,
        "owner": found.owner,
        "owner_lease_seconds": round((found.owner_until - facts.now) / SECOND, 1) if found.owner_until else None,
        "reports": found.reports,
        "oldest_report_age_seconds": round(found.oldest_report_age_us / SECOND, 1),
        "overdue_timers": found.overdue_timers,
        "parked": found.parked,
    }
