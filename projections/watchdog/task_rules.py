"""Rules on one open task: from the report that waits, to the entry, to the worker that holds it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tailrace.core.clock import SECOND, to_us
from tailrace.core.store.port import OpenEntry, WorkerBeat
from tailrace.core.workflow.definition import StageDefinition
from tailrace.core.workflow.policy import TIMER_SLACK_US
from tailrace.core.workflow.state import OpenTask
from tailrace.projections.watchdog import worker_findings as workers
from tailrace.projections.watchdog.facts import HEALS_US, AgentFacts, Facts
from tailrace.projections.watchdog.findings import Finding, duration, moving
from tailrace.projections.watchdog.transition_rules import (
    partition_stands,
    task_acknowledged,
    task_gone,
    timer_late,
    waiting_report,
)

#: What has looked the same for so long at two looks does not move.
STILL_US: Final = to_us(0.9)

#: From this delivery on a task seems to end its workers; the store gives it up at five.
CRASH_DELIVERIES: Final = 3

#: A delivery that has gone on for so long is no crash any more.
CRASH_LASTS_US: Final = to_us(30)


def task_findings(facts: Facts, stage: StageDefinition, task: OpenTask) -> Iterator[Finding]:
    """What is true of an open task; at least one finding."""
    task_id = facts.task_id(stage.name, task.attempt)
    yield from _timers(facts, stage, task)
    if facts.reports is not None and task_id in facts.reports.places:
        yield waiting_report(facts, stage, task_id)
        return
    agent = facts.agents.get(stage.agent)
    if agent is None or facts.entries is None or facts.reports is None or facts.orchestration is None:
        yield moving(f"stage {stage.name} can't be judged: not everything could be asked")
        return
    yield from _asides(agent)
    entry = facts.entries.get(task_id)
    match None if entry is None else entry.state:
        case "gone":
            yield task_gone(facts, stage, task, task_id, still=facts.still_us.get(task_id, 0) >= STILL_US)
        case "acknowledged":
            still = facts.still_us.get(task_id, 0) >= HEALS_US
            yield task_acknowledged(facts, stage, task, task_id, still=still)
        case "delivered":
            assert entry is not None
            yield _delivered(facts, stage, task, agent, entry)
        case _:
            yield _queued(facts, stage, task, agent, entry)


def _timers(facts: Facts, stage: StageDefinition, task: OpenTask) -> Iterator[Finding]:
    due_at = task.start_due_at if task.started_at is None else task.due_at
    if facts.state.status != "paused" and due_at is not None and facts.now - due_at >= TIMER_SLACK_US:
        yield timer_late(facts, "start" if task.started_at is None else "attempt", due_at, stage, attempt=task.attempt)


def _asides(agent: AgentFacts) -> Iterator[Finding]:
    if agent.open_breakers:
        yield workers.dependency_open(agent, aside=True)
    if len(agent.fit) < len(agent.live) or len({beat.build for beat in agent.live}) > 1:
        yield workers.identity_mismatch(agent, aside=True)


def _queued(
    facts: Facts, stage: StageDefinition, task: OpenTask, agent: AgentFacts, entry: OpenEntry | None
) -> Finding:
    """Nobody holds the task, or it was handed back."""
    ahead = 0 if entry is None else entry.ahead
    waited = facts.now - task.dispatched_at
    evidence = _evidence(facts, stage, task, agent, entry)
    if not agent.queue.has_group or not agent.live:
        return workers.no_worker(agent, waited, evidence)
    if not agent.fit:
        return workers.identity_mismatch(agent, aside=False, evidence=evidence)
    if agent.free_slots == 0 and agent.told >= agent.slots > 0 and agent.told_us >= HEALS_US:
        return workers.slots_kept(agent, waited, evidence)
    if agent.free_slots == 0:
        return workers.backlog(agent, ahead if entry is not None else None, waited, evidence)
    if agent.agent in facts.hung:
        return workers.workers_hung(agent, waited, evidence)
    if waited < to_us(stage.expect_start_seconds):
        return moving(
            f"stage {stage.name} was dispatched {duration(waited)} ago, {ahead} tasks before it", evidence=evidence
        )
    still_us = 0 if entry is None else facts.still_us.get(entry.task_id, 0)
    # (Who has not beaten since the first look may have been stopped just before it.)
    beaten = any(beat.slots > beat.in_flight and facts.now - beat.at < still_us for beat in agent.fit)
    if still_us >= STILL_US and beaten:
        return workers.workers_hung(agent, waited, evidence)
    return moving(
        f"stage {stage.name} waits since {duration(waited)} with {ahead} tasks before it, and slots are free",
        watching=True,
        evidence=evidence,
    )


def _delivered(facts: Facts, stage: StageDefinition, task: OpenTask, agent: AgentFacts, entry: OpenEntry) -> Finding:
    """A worker was given the task; names that begin with `~` are the store's own, for what was handed back."""
    if entry.worker.startswith("~"):
        return _queued(facts, stage, task, agent, entry)
    evidence = _evidence(facts, stage, task, agent, entry)
    if entry.deliveries >= CRASH_DELIVERIES and not _lasts(facts, task, entry):
        return workers.crash_loop(facts, stage, agent, entry, evidence)
    if agent.is_live(entry.worker):
        return _held(facts, stage, task, agent, entry, evidence)
    if entry.idle_us < HEALS_US:
        return moving(
            f"worker {entry.worker} fell silent; its task of stage {stage.name} is taken over when the lease has run out",
            evidence=evidence,
        )
    if not agent.fit:
        return workers.worker_lost(agent, entry, stage, evidence)
    if agent.free_slots == 0:
        return workers.backlog(agent, None, entry.idle_us, evidence)
    if facts.still_us.get(entry.task_id, 0) >= STILL_US:
        return workers.worker_lost(agent, entry, stage, evidence)
    return moving(
        f"the task of stage {stage.name}, left by {entry.worker}, can be taken over", watching=True, evidence=evidence
    )


def _lasts(facts: Facts, task: OpenTask, entry: OpenEntry) -> bool:
    """Whether this delivery has gone well for longer than one that ends its worker would."""
    return (
        task.started_at is not None
        and task.delivery == entry.deliveries
        and facts.now - task.started_at >= CRASH_LASTS_US
    )


def _held(
    facts: Facts,
    stage: StageDefinition,
    task: OpenTask,
    agent: AgentFacts,
    entry: OpenEntry,
    evidence: dict[str, Any],
) -> Finding:
    """In the hands of a worker that lives."""
    beat = agent.beat_of(entry.worker)
    assert beat is not None
    if task.started_at is None:
        return _not_begun(facts, stage, task, agent, entry, beat, evidence)
    if task.due_at is not None and facts.now - task.due_at >= TIMER_SLACK_US and facts.state.status != "paused":
        return workers.overdue(facts, stage, task, beat, evidence)
    limit = "" if task.due_at is None else f", of at most {duration(task.due_at - task.started_at)}"
    return moving(
        f"worker {entry.worker} works on stage {stage.name} since {duration(facts.now - task.started_at)}{limit}"
        + (f" ({task.fraction:.0%})" if task.fraction else ""),
        evidence=evidence,
    )


def _not_begun(
    facts: Facts,
    stage: StageDefinition,
    task: OpenTask,
    agent: AgentFacts,
    entry: OpenEntry,
    beat: WorkerBeat,
    evidence: dict[str, Any],
) -> Finding:
    """Taken, and no word that it began: the word comes within milliseconds, unless the worker's event loop stands."""
    waited = facts.now - task.dispatched_at
    taken = f"worker {entry.worker} took the task of stage {stage.name}"
    if partition_stands(facts) or waited < to_us(stage.expect_start_seconds):
        return moving(taken, evidence=evidence)
    still_us = facts.still_us.get(entry.task_id, 0)
    if still_us >= STILL_US and facts.now - beat.at < still_us:
        return workers.workers_hung(agent, waited, evidence, holder=beat)
    return moving(f"{taken} and has not said that it began", watching=True, evidence=evidence)


def _evidence(
    facts: Facts, stage: StageDefinition, task: OpenTask, agent: AgentFacts, entry: OpenEntry | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": stage.name,
        "task_id": facts.task_id(stage.name, task.attempt),
        "dispatched_seconds_ago": round((facts.now - task.dispatched_at) / SECOND, 1),
        **agent.evidence(),
    }
    if entry is not None:
        found["entry"] = {"id": entry.entry_id, "state": entry.state}
        if entry.state == "queued":
            found["entry"]["ahead"] = entry.ahead
        elif entry.state == "delivered" and not entry.worker.startswith("~"):
            found["entry"] |= {
                "worker": entry.worker,
                "idle_seconds": round(entry.idle_us / SECOND, 1),
                "deliveries": entry.deliveries,
            }
    return found
