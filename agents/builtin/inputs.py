"""What a stage needs from the ones before it, checked before any work is done.

A stage that is missing, or whose output has another shape, is said by name: the reader of the failure sees which stage
to look at, and not a file that can't be found. `params.inputs` renames: `{"scaffolding": "build"}` reads the output of
a stage called `build` where this agent says `scaffolding`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from tailrace.agents.sdk import TaskError, TaskInput

T = TypeVar("T")


def has_stage(task: TaskInput, stage: str) -> bool:
    """True if an earlier stage, directly or through others, is the one that this agent calls `stage`."""
    return _named(task, stage) in task.stages


def stage_output(task: TaskInput, stage: str, cls: type[T]) -> T:
    """The output of `stage` as a `cls`; raises `TaskError` `input-missing` or `input-invalid`."""
    name = _named(task, stage)
    if name not in task.stages:
        had = ", ".join(sorted(task.stages)) or "none"
        raise TaskError(
            "input-missing",
            f"this stage needs the output of {name!r}, and the run has: {had}",
            details={"stage": name, "has": sorted(task.stages)[:20]},
        )
    try:
        return msgspec.convert(task.stages[name], cls)
    except msgspec.ValidationError as error:
        raise TaskError(
            "input-invalid", f"the output of stage {name!r} does not fit: {error}", details={"stage": name}
        ) from error


def params(task: TaskInput, cls: type[T]) -> T:
    """The stage's parameters as a `cls`; raises `TaskError` `params-invalid`, also for names that `cls` does not know."""
    given = {name: value for name, value in task.params.items() if name != "inputs"}
    try:
        return msgspec.convert(given, cls)
    except msgspec.ValidationError as error:
        raise TaskError("params-invalid", f"the stage's parameters don't fit: {error}") from error


def _named(task: TaskInput, stage: str) -> str:
    renamed: Any = task.params.get("inputs")
    name = renamed.get(stage, stage) if isinstance(renamed, dict) else stage
    return str(name)
