"""The parts a gateway is made of, as every route finds them, and the time limit on what they ask of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from tailrace.core.artifacts import ArtifactStore
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import StoreUnavailable
from tailrace.core.store.port import WorkflowStore
from tailrace.gateway.feed import Feed
from tailrace.gateway.metrics import Metrics
from tailrace.gateway.ports import Diagnose
from tailrace.gateway.settings import GatewaySettings
from tailrace.projections.queries import Queries


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything a route may use."""

    store: WorkflowStore
    commands: CommandHandler
    queries: Queries
    diagnose: Diagnose
    artifacts: ArtifactStore
    settings: GatewaySettings
    feed: Feed
    metrics: Metrics

    @asynccontextmanager
    async def store_deadline(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Bound what is asked of the store; raises `StoreUnavailable` when it takes too long."""
        seconds = self.settings.store_timeout_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"the store did not answer within {seconds:g} s") from None


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


def services_of(request: web.Request) -> Services:
    """The parts behind the application that serves this request."""
    return request.app[SERVICES]
