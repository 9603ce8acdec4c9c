"""Running one action: from what the store gives to exactly one final report.

Whatever a handler does, it ends as completed, failed or cancelled. Values over the inline limit travel as artifacts, as
`{"$artifact": {…}}`, and are read back here before a handler sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tailrace.agents.context import RunningTask, clean
from tailrace.agents.sdk import Agent
from tailrace.core.artifacts import REFERENCE, ArtifactRef
from tailrace.core.codec import INLINE_LIMIT_BYTES, check_value, encode, encode_value
from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput, TailraceError, TaskError
from tailrace.core.events import Failure

_MESSAGE_LIMIT: Final = 2_000
_REASON_LIMIT: Final = 100


async def execute(agent: Agent, task: RunningTask, raw: Mapping[str, Any]) -> Report:
    """Run the task's action; gives the final report. Only cancellation of the task itself is raised."""
    try:
        action = agent.find(task.delivery.message.action)
        given = raw
        if _is_reference(raw["input"]) or any(map(_is_reference, raw["stages"].values())):
            stages = {stage: await _resolved(task, output) for stage, output in raw["stages"].items()}
            given = {**raw, "input": await _resolved(task, raw["input"]), "stages": stages}
        if task.compensating:
            stages, stage = given["stages"], task.delivery.message.stage
            given = {
                **given,
                "output": stages[stage],
                "stages": {name: stages[name] for name in stages if name != stage},
            }
        output = await action(task, given)
        data = _encoded(output)
        if len(data) > INLINE_LIMIT_BYTES:
            output = await _stored(task, data)
        return task.report("completed", output=output)
    except TaskError as error:
        return task.report("failed", error=_failure(error))
    except InvalidInput as error:
        # What the handler gave can't enter the log; the same rules hold when a report is applied.
        return task.report("failed", error=Failure(reason="report-rejected", message=clean(str(error), _MESSAGE_LIMIT)))
    except TailraceError as error:
        failure = Failure(reason=error.code, message=clean(str(error), _MESSAGE_LIMIT), retryable=error.retryable)
        return task.report("failed", error=failure)
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        # Nobody told this task to end: the handler waited for something of its own that was cancelled.
        task.log.exception("the handler of %s was cancelled by itself", task.task_id)
        return _raised(task, error)
    except Exception as error:  # whatever a handler raises is the end of its task, by policy
        task.log.exception("the handler of %s raised", task.task_id)
        return _raised(task, error)


def _raised(task: RunningTask, error: BaseException) -> Report:
    failure = Failure(
        reason="handler-error",
        message=clean(f"{type(error).__name__}: {error}", _MESSAGE_LIMIT),
        retryable=True,
        details={"type": type(error).__name__},
    )
    return task.report("failed", error=failure)


def _failure(error: TaskError) -> Failure:
    details = msgspec.to_builtins(dict(error.details))
    try:
        encode_value(details, "details")
    except InvalidInput as problem:
        details = {"dropped": str(problem)}
    return Failure(
        reason=clean(error.reason, _REASON_LIMIT),
        message=clean(error.message, _MESSAGE_LIMIT),
        retryable=error.may_retry,
        details=details,
    )


def _encoded(output: Any) -> bytes:
    """msgpack of an output; raises `InvalidInput` when it can't enter the log."""
    check_value(output)
    if _is_reference(output):
        raise InvalidInput(f"an output may not consist of {REFERENCE!r} alone: it stands for a stored value")
    try:
        return encode(output)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(f"the output can't be stored: {error}") from error


async def _stored(task: RunningTask, data: bytes) -> dict[str, Any]:
    """A reference to an output that is over the inline limit."""
    reference = await task.put_artifact(
        data, name=f"{task.delivery.message.stage}.msgpack", media_type="application/msgpack"
    )
    return {REFERENCE: msgspec.to_builtins(reference)}


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and REFERENCE in value and len(value) == 1


async def _resolved(task: RunningTask, value: Any) -> Any:
    """The value behind a reference; any other value is itself."""
    if _is_reference(value):
        reference = msgspec.convert(value[REFERENCE], ArtifactRef)
        data = await task.get_artifact(reference)
        return msgspec.json.decode(data) if reference.media_type == "application/json" else msgspec.msgpack.decode(data)
    return value
