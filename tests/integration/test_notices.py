"""People outside are told of faults and failed runs: once, signed, and whatever ends in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Limits
from tailrace.gateway.webhooks import Webhook
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog.delivery import Delivery, DeliveryOptions
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions
from tests.integration.watchdog_world import PATIENT, Worker, World, running
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.waiting import eventually

SENDING = DeliveryOptions(poll_seconds=0.05, first_seconds=0.1, longest_seconds=0.4)


@pytest.fixture
async def world(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[World]:
    """A fresh namespace with the times of production, but a short grace after an outage."""
    store = await RedisStore.open(
        RedisSettings(url=redis_server.url), namespace=namespace, partitions=2, limits=Limits(pulse_seconds=5.0)
    )
    yield World(store)
    await store.aclose()


@asynccontextmanager
async def telling(
    world: World, receiver: Receiver, *, count: int = 1, gather_seconds: float = 1.0, quiet_seconds: float = 0.5
) -> AsyncIterator[None]:
    """What `count` watchdogs run to tell the receiver; there from the first turn on."""
    options = TellerOptions(
        poll_seconds=0.05,
        lease_seconds=1.0,
        telling=TellingOptions(gather_seconds=gather_seconds, quiet_seconds=quiet_seconds),
    )
    async with AsyncExitStack() as opened:
        for _ in range(count):
            book = RedisNotices(world.store)
            webhook = Webhook(receiver.url, SECRET, source="urn:tailrace:test", namespace="test", private=True)
            await opened.enter_async_context(webhook)
            teller = Teller(world.store, book, [webhook.target], options)
            delivery = Delivery(world.store, book, webhook, SENDING)
            await teller.turn()
            await opened.enter_async_context(running(teller.run(), delivery.run()))
        yield


async def told(receiver: Receiver, *kinds: str) -> None:
    """Wait until this was told, and nothing else was."""

    async def enough() -> bool:
        return len(receiver.notices) >= len(kinds)

    await eventually(enough, timeout=40.0)
    assert receiver.kinds() == list(kinds)


async def test_a_fault_is_told_when_it_begins_and_when_it_is_over(world: World) -> None:
    """With what is known of it, as an event that programs understand."""
    async with receiving() as receiver, world.orchestrated(), telling(world, receiver), world.watched():
        run = await world.start(PATIENT)
        await told(receiver, "incident-opened")
        (opened,) = receiver.notices
        assert (opened["specversion"], opened["type"]) == ("1.0", "dev.tailrace.notice.incident-opened")
        assert (opened["source"], opened["subject"]) == ("urn:tailrace:test", "agent builder")
        facts = opened["data"]
        assert (facts["cause"], facts["hop"], facts["runs"]) == ("no-worker", "delivery", 1)
        assert (facts["suggestion"], facts["examples"]) == ("tailrace worker builder", [run])
        async with Worker(world.store).working():
            await world.until_completed(run)
        await told(receiver, "incident-opened", "incident-over")
        over = receiver.notices[1]["data"]
        assert (over["incident"], over["standing"]) == (facts["incident"], 0)
        assert over["over_at"] > over["opened_at"]
