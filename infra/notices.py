"""Who is told: what the settings name, opened for the watchdog. What is not configured is not loaded either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tailrace.core.store.port import WorkflowStore
from tailrace.gateway.cloudevents import source_of
from tailrace.infra.config import Settings
from tailrace.projections.watchdog.delivery import NoticeSender


@asynccontextmanager
async def senders(settings: Settings, store: WorkflowStore) -> AsyncIterator[list[NoticeSender]]:
    """A sender for each webhook and for the command; they end with the block."""
    source = source_of(store)
    async with AsyncExitStack() as opened:
        found: list[NoticeSender] = []
        if settings.notices.webhooks:
            from tailrace.gateway.webhooks import Webhook  # noqa: PLC0415  # brings aiohttp

            secret, private = settings.notices.secret or "", settings.notices.private
            for url in settings.notices.webhooks:
                webhook = Webhook(url, secret, source=source, namespace=settings.namespace, private=private)
                found.append(await opened.enter_async_context(webhook))
        if settings.notices.command:
            from tailrace.infra.notice_command import NoticeCommand  # noqa: PLC0415  # seldom wanted

            found.append(NoticeCommand(settings.notices.command, source=source, namespace=settings.namespace))
        yield found
