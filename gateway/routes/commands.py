"""`POST /workflows/{id}/cancel · pause · resume · retry`: commands of people. The answer is the run after the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from tailrace.core.commands import CancelWorkflow, Command, PauseWorkflow, ResumeWorkflow, RetryWorkflow
from tailrace.gateway.documents import workflow_document
from tailrace.gateway.requests import optional_body_of
from tailrace.gateway.responses import document, workflow_id_of
from tailrace.gateway.routes.workflows import ACTOR
from tailrace.gateway.schemas import CancelRequest, PauseRequest, ResumeRequest, RetryRequest, read
from tailrace.gateway.services import services_of
from tailrace.gateway.tracing import trace_of


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    one = f"{prefix}/workflows/{{workflow_id}}"
    return [
        web.post(f"{one}/cancel", _executing(_cancel)),
        web.post(f"{one}/pause", _executing(_pause)),
        web.post(f"{one}/resume", _executing(_resume)),
        web.post(f"{one}/retry", _executing(_retry)),
    ]


def _cancel(body: bytes) -> Command:
    return CancelWorkflow(reason=read(body, CancelRequest).reason)


def _pause(body: bytes) -> Command:
    return PauseWorkflow(reason=read(body, PauseRequest).reason)


def _resume(body: bytes) -> Command:
    read(body, ResumeRequest)
    return ResumeWorkflow()


def _retry(body: bytes) -> Command:
    return RetryWorkflow(from_stage=read(body, RetryRequest).from_stage)


def _executing(read_command: Callable[[bytes], Command]) -> Handler:
    """A handler that carries out the command in the body."""

    async def handler(request: web.Request) -> web.Response:
        services, workflow_id = services_of(request), workflow_id_of(request)
        command = read_command(await optional_body_of(request))
        async with services.store_deadline():
            snapshot = await services.commands.execute(
                workflow_id, command, actor=ACTOR, traceparent=trace_of(request).traceparent
            )
        return document(workflow_document(snapshot))

    return handler
