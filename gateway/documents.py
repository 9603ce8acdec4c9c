"""Documents of the interface, made from what the store holds: a run, its stages, its artifacts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from tailrace.core.clock import to_rfc3339
from tailrace.core.errors import Undecodable
from tailrace.core.events import Failure
from tailrace.core.ids import trace_id_of
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import StageState, Stall
from tailrace.projections.rows import WorkflowRow

_SHA256: Final = re.compile(r"^[0-9a-f]{64}$")


class ErrorDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run or stage failed."""

    reason: str
    message: str
    retryable: bool
    details: Mapping[str, Any]


class StallDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run does not move, as far as the watchdog has found."""

    cause: str
    hop: str
    since: str | None
    summary: str
    suggestion: str


class WorkflowDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    workflow_id: str
    type: str
    name: str
    status: str
    current_stage: str | None
    progress_percentage: int
    priority: str
    version: int
    trace_id: str | None
    stage_outputs: Mapping[str, Any]
    error: ErrorDocument | Mapping[str, Any] | None
    stall: StallDocument | Mapping[str, Any] | None
    created_at: str | None
    updated_at: str | None
    completed_at: str | None


class StageDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a run. `progress` is 0 to 1, within the open attempt.

    `compensation` says how far what the stage did is undone: `pending`, `running`, `completed` or `failed`; null where it is not.
    """

    stage: str
    status: str
    weight: int
    attempt: int
    tries: int
    progress: float
    worker: str | None
    started_at: str | None
    finished_at: str | None
    retry_at: str | None
    output: Any
    error: ErrorDocument | None
    compensation: str | None


class ArtifactDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that a stage's output refers to."""

    sha256: str
    size: int
    name: str
    media_type: str
    stage: str


def workflow_document(snapshot: Snapshot) -> WorkflowDocument:
    """The run as it stands in the store; raises `Undecodable`."""
    state = snapshot.state
    return WorkflowDocument(
        workflow_id=state.workflow_id,
        type=state.type,
        name=snapshot.created.name,
        status=state.status,
        current_stage=state.current_stage,
        progress_percentage=state.progress_percentage,
        priority=state.priority,
        version=state.version,
        trace_id=trace_id_of(state.traceparent),
        stage_outputs=stage_outputs(snapshot),
        error=_error(state.error),
        stall=_stall(state.stall),
        created_at=to_rfc3339(state.created_at),
        updated_at=to_rfc3339(state.updated_at),
        completed_at=to_rfc3339(state.completed_at),
    )


def archived_document(row: WorkflowRow) -> WorkflowDocument:
    """The run as the read model has it."""
    shown = {name: getattr(row, name) for name in WorkflowDocument.__struct_fields__}
    return WorkflowDocument(**{**shown, "error": _plain(row.error), "stall": _plain(row.stall)})


def stage_outputs(snapshot: Snapshot) -> dict[str, Any]:
    """The output of each completed stage; raises `Undecodable`."""
    try:
        return snapshot.stage_outputs()
    except (msgspec.MsgspecError, KeyError) as error:
        raise Undecodable(f"an output of {snapshot.state.workflow_id} can't be read: {error}") from error


def stage_documents(snapshot: Snapshot) -> list[StageDocument]:
    """The stages of a run, in the order of its definition."""
    outputs = stage_outputs(snapshot)
    state = snapshot.state
    return [_stage(name, stage, outputs.get(name), state.compensation_of(name)) for name, stage in state.stages.items()]


def _stage(name: str, stage: StageState, output: Any, compensation: str | None) -> StageDocument:
    task = stage.task
    return StageDocument(
        stage=name,
        status=stage.status,
        weight=stage.weight,
        attempt=stage.attempt,
        tries=stage.tries,
        progress=1.0 if stage.status == "completed" else 0.0 if task is None else task.fraction,
        worker=(stage.worker if task is None else task.worker) or None,
        started_at=to_rfc3339(stage.started_at),
        finished_at=to_rfc3339(stage.finished_at),
        retry_at=to_rfc3339(stage.retry_at),
        output=output,
        error=_error(stage.error),
        compensation=compensation,
    )


def artifact_documents(outputs: Mapping[str, Any]) -> list[ArtifactDocument]:
    """Every reference to an artifact in the outputs of stages, wherever it stands; each once per stage."""
    found: dict[tuple[str, str, str], ArtifactDocument] = {}
    for stage, output in outputs.items():
        for ref in _references(output):
            found.setdefault((stage, ref["sha256"], ref["name"]), _artifact(stage, ref))
    return list(found.values())


def _references(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        if _is_reference(value):
            yield value
        else:
            for item in value.values():
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _is_reference(value: Mapping[str, Any]) -> bool:
    sha256 = value.get("sha256")
    return (
        isinstance(sha256, str)
        and _SHA256.match(sha256) is not None
        and isinstance(value.get("size"), int)
        and isinstance(value.get("name"), str)
    )


def _artifact(stage: str, ref: Mapping[str, Any]) -> ArtifactDocument:
    return ArtifactDocument(
        sha256=ref["sha256"],
        size=ref["size"],
        name=ref["name"],
        media_type=str(ref.get("media_type", "application/octet-stream")),
        stage=stage,
    )


def _plain(part: msgspec.Struct | None) -> dict[str, Any] | None:
    return None if part is None else msgspec.structs.asdict(part)


def _error(error: Failure | None) -> ErrorDocument | None:
    if error is None:
        return None
    return ErrorDocument(reason=error.reason, message=error.message, retryable=error.retryable, details=error.details)


def _stall(stall: Stall | None) -> StallDocument | None:
    if stall is None:
        return None
    return StallDocument(
        cause=stall.cause,
        hop=stall.hop,
        since=to_rfc3339(stall.since),
        summary=stall.summary,
        suggestion=stall.suggestion,
    )
