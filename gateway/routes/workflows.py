"""`/workflows`: start a run, list runs, look at one."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from tailrace.core import codec
from tailrace.core.artifacts import REFERENCE
from tailrace.core.commands import CreateWorkflow
from tailrace.core.errors import FieldError, InvalidInput, LogDiverged, NotFound
from tailrace.core.ids import idempotent_workflow_id, new_workflow_id
from tailrace.core.partitioning import partition_of
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Snapshot
from tailrace.gateway.documents import (
    archived_document,
    artifact_documents,
    stage_documents,
    stage_outputs,
    workflow_document,
)
from tailrace.gateway.requests import bearer_of, body_of
from tailrace.gateway.responses import document, items, workflow_id_of
from tailrace.gateway.schemas import CreateWorkflowRequest, check_query, query_flag, query_number, query_object, read
from tailrace.gateway.services import Services, services_of
from tailrace.gateway.tracing import trace_of
from tailrace.gateway.waiting import wait_ended
from tailrace.projections.rows import WorkflowRow

ACTOR: Final = "api"
_KEY: Final = re.compile(r"^[\x21-\x7e]{1,255}$")


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    one = f"{prefix}/workflows/{{workflow_id}}"
    return [
        web.post(f"{prefix}/workflows", create),
        web.get(f"{prefix}/workflows", list_workflows),
        web.get(one, show),
        web.get(f"{one}/stages", stages),
        web.get(f"{one}/tasks", tasks),
        web.get(f"{one}/why", why),
        web.get(f"{one}/artifacts", artifacts),
    ]


async def create(request: web.Request) -> web.Response:
    """Start a run. With `Idempotency-Key` the same request again gives the same run."""
    services = services_of(request)
    wait_seconds = _wait_seconds(request, services)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.match(key):
        raise InvalidInput("`Idempotency-Key` is 1 to 255 visible ASCII characters")
    wanted = read(await body_of(request), CreateWorkflowRequest)
    # A key means the same request only to the same client: the token is part of the id.
    workflow_id = (
        new_workflow_id(time.time_ns() // 1000) if key is None else idempotent_workflow_id(bearer_of(request), key)
    )
    async with services.store_deadline():
        pipeline = await _pipeline(services, wanted.type)
        command = CreateWorkflow(
            workflow_id=workflow_id,
            definition=pipeline.hash,
            type=wanted.type,
            name=wanted.name,
            description=wanted.description,
            requirements=wanted.requirements,
            priority=wanted.priority,
            input=await _stored_input(services, wanted.input),
            labels=wanted.labels,
            body_hash=_body_hash(wanted),
        )
        outcome = await services.commands.create(command, actor=ACTOR, traceparent=trace_of(request).traceparent)
    snapshot = outcome.snapshot
    status = 201
    if wait_seconds is not None:
        snapshot = await wait_ended(services, snapshot, wait_seconds)
        status = 201 if snapshot.state.terminal else 202
    headers = {"Location": f"{request.path}/{workflow_id}"}
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    return document(workflow_document(snapshot), status=status, headers=headers)


async def list_workflows(request: web.Request) -> web.Response:
    """Runs, newest first."""
    query = request.query
    check_query(query, "status", "type", "label", "input", "q", "stalled", "limit", "cursor")
    page = await services_of(request).queries.list_workflows(
        status=query.get("status"),
        type=query.get("type"),
        labels=_labels(query.getall("label", [])),
        input=query_object(query, "input"),
        q=query.get("q"),
        stalled=query_flag(query, "stalled"),
        limit=query_number(query, "limit", default=50, least=1, most=200),
        cursor=query.get("cursor"),
    )
    return items([archived_document(row) for row in page.items], page.next_cursor)


async def show(request: web.Request) -> web.Response:
    """A run: as the store has it, else as it was archived."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    snapshot = await load(services, workflow_id)
    if snapshot is not None:
        return document(workflow_document(snapshot))
    return document(archived_document(await archived(services, workflow_id)))


async def stages(request: web.Request) -> web.Response:
    """The stages of a run."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    snapshot = await load(services, workflow_id)
    if snapshot is not None:
        return items(stage_documents(snapshot))
    await archived(services, workflow_id)
    return items(await services.queries.stages(workflow_id))


async def tasks(request: web.Request) -> web.Response:
    """Every attempt of every stage."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    found = await services.queries.tasks(workflow_id)
    if not found and await load(services, workflow_id) is None:
        await archived(services, workflow_id)
    return items(found)


async def why(request: web.Request) -> web.Response:
    """Why the run does not move."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    # It answers also when the store does not, and says so.
    async with services.store_deadline(services.settings.why_timeout_seconds):
        return document(await services.diagnose(workflow_id))


async def artifacts(request: web.Request) -> web.Response:
    """What the run's stages have stored."""
    services, workflow_id = services_of(request), workflow_id_of(request)
    snapshot = await load(services, workflow_id)
    if snapshot is not None:
        return items(artifact_documents(stage_outputs(snapshot)))
    return items(artifact_documents((await archived(services, workflow_id)).stage_outputs))


async def load(services: Services, workflow_id: str) -> Snapshot | None:
    """The run out of the store, in bounded time; None also when it is another store, and only the archive may have the run."""
    async with services.store_deadline():
        try:
            return await services.store.load(workflow_id)
        except LogDiverged:
            return None


async def archived(services: Services, workflow_id: str) -> WorkflowRow:
    """The run out of the read model; raises `NotFound`, or `LogDiverged` when the store can't say that it is not there."""
    found = await services.queries.get_workflow(workflow_id)
    if found is None:
        async with services.store_deadline():
            await services.store.check_identity(partition_of(workflow_id, services.store.partitions))
        raise NotFound("workflow", workflow_id)
    return found


async def _pipeline(services: Services, name: str) -> Pipeline:
    try:
        return await services.store.latest(name)
    except NotFound:
        known = ", ".join(sorted(await services.store.definitions())) or "none yet"
        detail = f"there is no definition {name!r}; known are: {known}"
        raise InvalidInput(detail, [FieldError(pointer="/type", detail=detail)]) from None


async def _stored_input(services: Services, value: dict[str, Any]) -> dict[str, Any]:
    """The input itself, or a reference to it when it is too large to be in an event."""
    if not value:
        return value
    if REFERENCE in value:
        detail = f"the key {REFERENCE!r} is reserved: it stands for a stored value"
        raise InvalidInput(detail, [FieldError(pointer=f"/input/{REFERENCE}", detail=detail)])
    data = codec.encode(value)
    if len(data) <= codec.INLINE_LIMIT_BYTES:
        return value
    ref = await asyncio.to_thread(
        services.artifacts.put, codec.to_json(value), name="input.json", media_type="application/json"
    )
    return {REFERENCE: msgspec.to_builtins(ref)}


def _body_hash(wanted: CreateWorkflowRequest) -> str:
    """Of the meaning, not of the bytes: neither spaces nor the order of fields make another request."""
    return hashlib.sha256(msgspec.json.encode(wanted, order="deterministic")).hexdigest()


def _wait_seconds(request: web.Request, services: Services) -> float | None:
    text = request.query.get("wait")
    if text is None:
        return None
    most = services.settings.max_wait_seconds
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise InvalidInput(f"`wait` is a number of seconds from 0 to {most:g}")
    return seconds


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidInput("`label` is written key=value")
        labels[key] = value
    return labels
