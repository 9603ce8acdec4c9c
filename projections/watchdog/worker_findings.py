"""Findings about an agent's workers, in words: what is true, and what to type next."""

from __future__ import annotations

from typing import Any

from tailrace.core.store.port import OpenEntry, WorkerBeat
from tailrace.core.workflow.definition import StageDefinition
from tailrace.core.workflow.state import OpenTask
from tailrace.projections.watchdog.facts import HEALS_US, AgentFacts, Facts
from tailrace.projections.watchdog.findings import Finding, duration
from tailrace.projections.watchdog.transition_rules import fire


def no_worker(agent: AgentFacts, waited_us: int, evidence: dict[str, Any]) -> Finding:
    """Nobody is there to take it. A worker that fell silent just now may be back in time."""
    silent = agent.silent_us
    if not agent.queue.has_group:
        why = f"agent {agent.agent} has no group in partition {agent.queue.partition}: no worker ever joined it"
    elif silent is None:
        why = f"no worker of agent {agent.agent} has beaten within a minute"
    else:
        why = f"the last beat of a worker of agent {agent.agent} was {duration(silent)} ago"
    return Finding(
        cause="no-worker",
        summary=f"{why}; the task waits since {duration(waited_us)}, backlog {agent.queue.backlog}",
        suggestion=f"tailrace worker {agent.agent}",
        evidence=evidence,
        sure=silent is None or silent >= HEALS_US or not agent.queue.has_group,
        scope=f"agent {agent.agent}",
    )


def workers_hung(
    agent: AgentFacts, waited_us: int, evidence: dict[str, Any], *, holder: WorkerBeat | None = None
) -> Finding:
    """They beat, and nothing moves."""
    beat = holder or max(agent.fit, key=lambda beat: beat.slots - beat.in_flight)
    if holder is not None:
        what = f"worker {holder.name} took the task, beats, and has not begun with it"
    else:
        what = (
            f"{len(agent.fit)} workers of agent {agent.agent} beat with {agent.free_slots} free slots and take nothing"
        )
    return Finding(
        cause="workers-hung",
        summary=f"{what}; the task waits since {duration(waited_us)}",
        suggestion=stop(beat, agent.agent),
        evidence=evidence,
        scope=f"agent {agent.agent}",
    )


def slots_kept(agent: AgentFacts, waited_us: int, evidence: dict[str, Any]) -> Finding:
    """All slots are taken by handlers whose tasks have ended without them, and that don't listen."""
    beat = max(agent.fit, key=lambda beat: beat.in_flight)
    return Finding(
        cause="workers-hung",
        summary=f"all {agent.slots} slots of agent {agent.agent} are held by handlers that were told to stop at least "
        f"{duration(agent.told_us)} ago and go on; the task waits since {duration(waited_us)}",
        suggestion=stop(beat, agent.agent),
        evidence=evidence,
        scope=f"agent {agent.agent}",
    )


def worker_lost(agent: AgentFacts, entry: OpenEntry, stage: StageDefinition, evidence: dict[str, Any]) -> Finding:
    """Held by somebody who is gone, and nobody takes it over."""
    beat = agent.beat_of(entry.worker)
    gone = "does not beat" if beat is None else f"beat last {duration(agent.now - beat.at)} ago"
    others = "no other worker lives" if not agent.fit else f"{len(agent.fit)} live workers don't take it over"
    return Finding(
        cause="worker-lost",
        summary=f"worker {entry.worker}, which holds the task of stage {stage.name}, {gone}; "
        f"no sign of it since {duration(entry.idle_us)}, and {others}",
        suggestion=f"tailrace worker {agent.agent}",
        evidence=evidence,
        scope=f"agent {agent.agent}",
    )


def crash_loop(
    facts: Facts, stage: StageDefinition, agent: AgentFacts, entry: OpenEntry, evidence: dict[str, Any]
) -> Finding:
    """Delivered again and again."""
    return Finding(
        cause="crash-loop",
        summary=f"the task of stage {stage.name} was delivered {entry.deliveries} times without an end; "
        "its workers end or lose it each time, and the store will give it up as poison",
        suggestion=f"tailrace cancel {facts.state.workflow_id}",
        evidence=evidence,
        scope=f"agent {agent.agent}",
    )


def overdue(
    facts: Facts, stage: StageDefinition, task: OpenTask, beat: WorkerBeat, evidence: dict[str, Any]
) -> Finding:
    """Held by a live worker, over the stage's time."""
    assert task.started_at is not None
    assert task.due_at is not None
    return Finding(
        cause="overdue",
        summary=f"worker {beat.name} works on stage {stage.name} since {duration(facts.now - task.started_at)}, "
        f"{duration(facts.now - task.due_at)} over its time",
        suggestion=stop(beat, stage.agent),
        evidence={
            **evidence,
            "timeout_seconds": stage.timeout_seconds,
            "overdue_timers": 0 if facts.orchestration is None else facts.orchestration.overdue_timers,
        },
        scope=f"agent {stage.agent}",
        repair=fire(facts, "attempt", stage.name, task.attempt, task.due_at),
    )


def backlog(agent: AgentFacts, ahead: int | None, waited_us: int, evidence: dict[str, Any]) -> Finding:
    """All are busy; nothing is wrong."""
    slots = agent.slots
    place = f"backlog {agent.queue.backlog}" if ahead is None else f"{ahead} tasks before it"
    busy = (
        f"all {slots} slots of agent {agent.agent} are busy" if slots else f"all workers of agent {agent.agent} drain"
    )
    return Finding(
        cause="backlog",
        summary=f"{busy}; the task waits since {duration(waited_us)}, {place}",
        suggestion=f"tailrace worker {agent.agent}",
        evidence=evidence,
        sure=False,
        scope=f"agent {agent.agent}",
    )


def dependency_open(agent: AgentFacts, *, aside: bool, evidence: dict[str, Any] | None = None) -> Finding:
    """Workers have given a service up for now."""
    names = ", ".join(f"{name} ({state})" for name, state in sorted(agent.open_breakers.items()))
    return Finding(
        cause="dependency-open",
        summary=f"workers of agent {agent.agent} can't reach {names or 'a dependency'}",
        suggestion="tailrace agents",
        evidence=evidence or agent.evidence(),
        scope=f"agent {agent.agent}",
        aside=aside,
    )


def identity_mismatch(agent: AgentFacts, *, aside: bool, evidence: dict[str, Any] | None = None) -> Finding:
    """Workers that mean another store, or of several builds."""
    strangers = [beat.name for beat in agent.live if beat not in agent.fit]
    builds = sorted({beat.build for beat in agent.live})
    if strangers:
        what = f"workers {', '.join(strangers)} of agent {agent.agent} belong to another store or namespace"
    else:
        what = f"workers of agent {agent.agent} run different builds: {', '.join(build or '?' for build in builds)}"
    return Finding(
        cause="identity-mismatch",
        summary=what,
        suggestion="tailrace doctor",
        evidence={
            **(evidence or agent.evidence()),
            "store_id": agent.store_id,
            "strangers": strangers,
            "builds": builds,
        },
        scope=f"agent {agent.agent}",
        aside=aside,
    )


def stop(beat: WorkerBeat, agent: str) -> str:
    """How to end a worker so that its tasks are taken by another one."""
    return f"kill -TERM {beat.pid}  # on {beat.host}: worker {beat.name}; then: tailrace worker {agent}"
