"""The application: routes, the middleware and the feed, put together from given parts."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from tailrace.core.artifacts import ArtifactStore
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.store.port import WorkflowStore
from tailrace.gateway.access import Access
from tailrace.gateway.cloudevents import source_of
from tailrace.gateway.feed import Feed
from tailrace.gateway.metrics import Metrics
from tailrace.gateway.middleware import add_headers, edge
from tailrace.gateway.ports import Diagnose
from tailrace.gateway.routes import agents, artifacts, commands, definitions, events, figures, health, stalls, workflows
from tailrace.gateway.services import SERVICES, Services
from tailrace.gateway.settings import GatewaySettings
from tailrace.projections.queries import Queries

PREFIX: Final = "/api/v1"


def build_app(
    *,
    store: WorkflowStore,
    commands_handler: CommandHandler,
    queries: Queries,
    diagnose: Diagnose,
    artifact_store: ArtifactStore,
    settings: GatewaySettings,
) -> web.Application:
    """The gateway as an application. Its parts are opened and closed by whoever made them."""
    metrics = Metrics()
    feed = Feed(
        store,
        source=source_of(store),
        queue_limit=settings.stream_queue,
        timeout_seconds=settings.store_timeout_seconds,
    )
    # Looked up in the module when it is needed: tracing may have put a class of its own there.
    app = web.Application(middlewares=[edge(Access(settings), metrics)], client_max_size=settings.max_body_bytes)
    app[SERVICES] = Services(
        store=store,
        commands=commands_handler,
        queries=queries,
        diagnose=diagnose,
        artifacts=artifact_store,
        settings=settings,
        feed=feed,
        metrics=metrics,
    )
    for module in (workflows, commands, events, artifacts, agents, stalls, definitions):
        app.add_routes(module.routes(PREFIX))
    app.add_routes([*health.routes(), *figures.routes()])
    app.on_response_prepare.append(add_headers)
    # Streams end first: the server waits for open responses when it stops.
    app.on_shutdown.append(_end_streams)
    return app


async def _end_streams(app: web.Application) -> None:
    await app[SERVICES].feed.close()
