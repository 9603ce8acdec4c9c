"""What follows from a state alone: how long to wait for the next attempt, which timers run, and what is expected next.

These are derived, never stored as facts: an append compares them before and after, and writes the difference.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec

from tailrace.core.clock import SECOND, to_us
from tailrace.core.workflow.definition import Pipeline, RetryPolicy
from tailrace.core.workflow.state import WorkflowState

#: An expectation that can't pass: a person has to act, or the stage has no limit. 2100-01-01.
NEVER_US: Final = 4_102_444_800 * SECOND

#: How late a timer may fire before the watchdog asks why: two polls and a grace of one lease.
TIMER_SLACK_US: Final = 5 * SECOND

#: When a standing stall is looked at again: soon at first, seldom when it has stood for long. (With tens of thousands that stand
#: for the same reason a new one would have to wait for a look at all of them.)
RECHECK_US: Final = 10 * SECOND
LONGEST_RECHECK_US: Final = 120 * SECOND


def recheck_us(since: int, now: int) -> int:
    """How long to wait before what stands since then is looked at again, in microseconds."""
    return min(max(RECHECK_US, (now - since) // 2), LONGEST_RECHECK_US)


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is `start | attempt | retry`, or `grace`, which has no stage and the round in place of the attempt.

    Its name in the store is `<workflow>|<kind>|<stage>|<attempt>`.
    """

    workflow_id: str
    kind: str
    stage: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.workflow_id}|{self.kind}|{self.stage}|{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> Timer:
        """Read a timer's name back; raises `ValueError`."""
        workflow_id, kind, stage, attempt = text.split("|")
        return cls(workflow_id=workflow_id, kind=kind, stage=stage, attempt=int(attempt))


def retry_delay_us(policy: RetryPolicy, tries: int, seed: str) -> int:
    """The wait after `tries` failed attempts, in microseconds: exponential, with up to a tenth of jitter.

    The jitter comes from `seed` (the task id): runs that failed together do not come back together, and the same history
    gives the same wait.
    """
    delay = min(policy.backoff_seconds * policy.factor ** (tries - 1), policy.max_backoff_seconds)
    jitter = crc32(seed.encode()) % 1000 / 1000 * 0.1
    return to_us(delay * (1 + jitter))


def timers(state: WorkflowState | None) -> dict[str, int]:
    """The timers that run for a state: name to due time. None while it is paused or ended: its clocks stand still."""
    if state is None or state.terminal or state.status == "paused":
        return {}
    if state.compensation is not None and state.compensation.grace_until is not None:
        # Whatever is planned waits for handlers that were told to stop.
        return {_name(state, "grace", "", state.round): state.compensation.grace_until}
    due: dict[str, int] = {}
    for name, stage in state.stages.items():
        task = stage.task
        if task is None:
            if stage.retry_at is not None:
                due[_name(state, "retry", name, stage.attempt)] = stage.retry_at
        elif task.started_at is None:
            if task.start_due_at is not None:
                due[_name(state, "start", name, task.attempt)] = task.start_due_at
        elif task.due_at is not None:
            due[_name(state, "attempt", name, task.attempt)] = task.due_at
    return due


def _name(state: WorkflowState, kind: str, stage: str, attempt: int) -> str:
    return f"{state.workflow_id}|{kind}|{stage}|{attempt}"


def expectation(pipeline: Pipeline, state: WorkflowState) -> int | None:
    """By when something must happen next, in microseconds since the epoch; None for a run that has ended."""
    if state.terminal:
        return None
    if state.status == "paused":
        return NEVER_US
    if state.stall is not None:
        return state.updated_at + RECHECK_US
    if state.compensation is not None and state.compensation.grace_until is not None:
        return state.compensation.grace_until + TIMER_SLACK_US
    due = NEVER_US
    waiting = True
    for name, stage in state.stages.items():
        task = stage.task
        if task is not None:
            waiting = False
            if task.started_at is None:
                due = min(due, task.dispatched_at + to_us(pipeline.stages[name].expect_start_seconds))
            elif task.due_at is not None:
                due = min(due, task.due_at + TIMER_SLACK_US)
        elif stage.retry_at is not None:
            waiting = False
            due = min(due, stage.retry_at + TIMER_SLACK_US)
    # Nothing is dispatched and nothing is planned: there is no next step, which can't be, so it is asked about at once.
    return state.updated_at if waiting else due
