"""Small definitions, commands and reports, for tests that care about one thing and want the rest out of sight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from msgspec import UNSET, UnsetType

from tailrace.core.commands import CreateWorkflow, Report
from tailrace.core.events import Failure
from tailrace.core.partitioning import partition_of
from tailrace.core.workflow.definition import (
    CompensationDefinition,
    Definition,
    Pipeline,
    RetryPolicy,
    StageDefinition,
    validate,
)

#: A valid, sampled W3C traceparent.
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

#: A policy whose waits are easy to reckon with: 1 s, 2 s, then no more attempts.
THREE_ATTEMPTS: Final = RetryPolicy(max_attempts=3, backoff_seconds=1.0, factor=2.0, max_backoff_seconds=60.0)


def stage(
    name: str,
    *needs: str,
    agent: str = "agent",
    timeout_seconds: float | None = 600.0,
    start_timeout_seconds: float | None = None,
    expect_start_seconds: float = 5.0,
    weight: int = 1,
    retry: RetryPolicy = THREE_ATTEMPTS,
    params: dict[str, Any] | None = None,
    compensate: CompensationDefinition | UnsetType = UNSET,
) -> StageDefinition:
    """A stage called `name` that needs `needs`."""
    return StageDefinition(
        name=name,
        agent=agent,
        needs=needs,
        weight=weight,
        timeout_seconds=timeout_seconds,
        start_timeout_seconds=start_timeout_seconds,
        expect_start_seconds=expect_start_seconds,
        retry=retry,
        params=params or {},
        compensate=compensate,
    )


def undone(name: str, *needs: str, agent: str = "agent", undo: str = "", **fields: Any) -> StageDefinition:
    """A stage whose work is undone by the agent `undo` (by default its own) when the run does not complete."""
    compensate = CompensationDefinition(agent=undo or agent, retry=THREE_ATTEMPTS)
    return stage(name, *needs, agent=agent, compensate=compensate, **fields)


def pipeline(
    *stages: StageDefinition, name: str = "pipeline", cancel_grace_seconds: float | UnsetType = UNSET
) -> Pipeline:
    """A validated definition of these stages, made ready for deciding."""
    definition = Definition(name=name, stages=stages, cancel_grace_seconds=cancel_grace_seconds)
    validate(definition)
    return Pipeline(definition)


def line(*names: str, agent: str = "agent") -> Pipeline:
    """Stages one after the other."""
    before: Sequence[str] = ("", *names)
    return pipeline(
        *(stage(name, *([need] if need else []), agent=agent) for need, name in zip(before, names, strict=False)),
        name="line",
    )


def diamond() -> Pipeline:
    """`start`, then `left` and `right` side by side, then `join`."""
    return pipeline(
        stage("start"),
        stage("left", "start"),
        stage("right", "start"),
        stage("join", "left", "right"),
        name="diamond",
    )


def create_workflow(of: Pipeline, workflow_id: str, **fields: Any) -> CreateWorkflow:
    """The command that starts a run of a pipeline."""
    values = {"type": of.definition.name, "name": f"run {workflow_id}", **fields}
    return CreateWorkflow(workflow_id=workflow_id, definition=of.hash, **values)


def workflow_id_in(partition: int, partitions: int, *, number: int = 1) -> str:
    """The `number`-th workflow id, counted from 1, that falls into a partition."""
    found = 0
    for candidate in count(1):
        workflow_id = f"run-{candidate}"
        found += partition_of(workflow_id, partitions) == partition
        if found == number:
            return workflow_id
    raise AssertionError("unreachable")


def started(task_id: str, *, worker: str = "w1", delivery: int = 1, build: str = "") -> Report:
    """A worker began."""
    return Report(kind="started", task_id=task_id, worker=worker, delivery=delivery, build=build)


def progressed(task_id: str, fraction: float, *, worker: str = "w1", delivery: int = 1) -> Report:
    """A worker said how far it is."""
    return Report(kind="progressed", task_id=task_id, worker=worker, delivery=delivery, fraction=fraction)


def completed(task_id: str, output: Any = None, *, worker: str = "w1", delivery: int = 1) -> Report:
    """A worker has a result."""
    return Report(kind="completed", task_id=task_id, worker=worker, delivery=delivery, output=output)


def failed(
    task_id: str, *, reason: str = "handler-error", retryable: bool = True, worker: str = "w1", delivery: int = 1
) -> Report:
    """A worker has no result."""
    error = Failure(reason=reason, message=f"it failed: {reason}", retryable=retryable)
    return Report(kind="failed", task_id=task_id, worker=worker, delivery=delivery, error=error)


def cancelled(task_id: str, *, worker: str = "w1", delivery: int = 1) -> Report:
    """A worker stopped because it was told to."""
    return Report(kind="cancelled", task_id=task_id, worker=worker, delivery=delivery)


def poison(task_id: str, *, worker: str = "w1", delivery: int = 5) -> Report:
    """The store gave a task up: it was delivered too often."""
    return Report(kind="poison", task_id=task_id, worker=worker, delivery=delivery)


def stopped(task_id: str) -> Report:
    """The store found that nobody works on a closed task."""
    return Report(kind="stopped", task_id=task_id)


def lost(task_id: str, *, worker: str = "w1", delivery: int = 1) -> Report:
    """The store found that a task's entry is gone."""
    return Report(kind="lost", task_id=task_id, worker=worker, delivery=delivery)
