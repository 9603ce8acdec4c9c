"""People outside are told of faults and failed runs: once, signed, and whatever ends in between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tailrace.core.commands import FlagStall, PauseWorkflow, ResumeWorkflow
from tailrace.core.events import Failure
from tailrace.core.notices import FailedRun, Incident, Notice
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Limits
from tailrace.core.testing import builders
from tailrace.gateway.notices import LIMIT_BYTES, notice_document
from tailrace.gateway.webhooks import Webhook
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog.checks import check_notices
from tailrace.projections.watchdog.delivery import Delivery, DeliveryOptions
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions
from tests.integration.watchdog_world import PATIENT, Worker, World, running
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.waiting import eventually

NOTICE = Notice(
    id="run-1:7", kind="run-failed", at=7, run=FailedRun(workflow_id="run-1", error=Failure(reason="broken"))
)
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
            teller = Teller(world.store, book, {webhook.target: webhook.title}, options)
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


@pytest.mark.hole("H23")
async def test_a_fault_of_many_runs_is_told_once(world: World) -> None:
    """Three hundred runs, three watchdogs: one notice with a count, and one when the last of them has moved."""
    async with receiving() as receiver, world.orchestrated(), telling(world, receiver, count=3, gather_seconds=3.0):
        runs = [await world.start(PATIENT) for _ in range(300)]
        async with world.watched(count=2):
            await told(receiver, "incident-opened")

            async def all_are_flagged() -> bool:
                return all(state and state.stall for state in await world.store.load_states(runs))

            await eventually(all_are_flagged, timeout=40.0)
            async with Worker(world.store, slots=100).working():
                await told(receiver, "incident-opened", "incident-over")
    opened, over = (document["data"] for document in receiver.notices)
    assert (opened["scope"], opened["cause"]) == ("agent builder", "no-worker")
    assert 1 < opened["runs"] <= over["runs"] == 300
    assert receiver.ids == [document["id"] for document in receiver.notices]


async def test_a_run_that_failed_is_told_once(world: World) -> None:
    """With its stage and why; a run that completed is not told."""
    worker = Worker(world.store)
    async with receiving() as receiver, world.orchestrated(), telling(world, receiver, count=2), worker.working():
        good = await world.start(PATIENT)
        await world.until_completed(good)
        worker.outcome = lambda task_id: builders.failed(task_id, reason="no-compiler", worker="w1")
        bad = await world.start(PATIENT)
        await told(receiver, "run-failed")
    (document,) = receiver.notices
    facts = document["data"]
    assert (document["subject"], facts["workflow_id"], facts["type"], facts["stage"]) == (bad, bad, "patient", "build")
    assert (facts["error"]["reason"], facts["last_reason"]) == ("retry-budget", "no-compiler")


async def test_a_failed_run_whose_state_cannot_be_read_is_told_too(world: World) -> None:
    """Without its pipeline; and it does not keep those beside it from being told."""
    worker = Worker(world.store)
    worker.outcome = lambda task_id: builders.failed(task_id, reason="no-compiler", worker="w1")
    async with receiving() as receiver:
        async with telling(world, receiver):
            pass  # it was there: what comes now is told
        async with world.orchestrated(), worker.working():
            runs = [await world.start(PATIENT) for _ in range(3)]

            async def all_failed() -> bool:
                return all(state and state.status == "failed" for state in await world.store.load_states(runs))

            await eventually(all_failed)
        await world.break_state(runs[0])
        async with telling(world, receiver):
            await told(receiver, *["run-failed"] * 3)
    types = {document["data"]["workflow_id"]: document["data"]["type"] for document in receiver.notices}
    assert types == {runs[0]: "", runs[1]: "patient", runs[2]: "patient"}


async def test_what_comes_and_goes_is_one_incident(world: World) -> None:
    """Told once when it begins and once when it has been quiet, with how often it came back."""
    run = await world.start(PATIENT)
    async with receiving() as receiver, telling(world, receiver, gather_seconds=0.0, quiet_seconds=2.0):
        for _ in range(4):
            stall = FlagStall(cause="overdue", hop="worker", summary="it takes too long")
            await world.handler.execute(run, stall, actor="watchdog")
            await world.handler.execute(run, PauseWorkflow(), actor="test")
            await world.handler.execute(run, ResumeWorkflow(), actor="test")
        await told(receiver, "incident-opened", "incident-over")
    opened, over = (document["data"] for document in receiver.notices)
    assert opened["incident"] == over["incident"]
    assert (over["returned"], over["runs"], over["scope"]) == (3, 1, f"run {run}")


async def test_a_receiver_that_is_down_is_told_when_it_is_back(world: World) -> None:
    """Whether it does not listen or answers with an error; the same notice has the same id, and the one behind it comes too."""
    async with receiving() as receiver:
        gone = receiver.url
    port = int(gone.rpartition(":")[2].partition("/")[0])
    async with telling(world, receiver, gather_seconds=0.0, quiet_seconds=0.2):
        run = await world.start(PATIENT)
        await world.handler.execute(run, FlagStall(cause="overdue", hop="worker", summary="x"), actor="watchdog")
        await world.handler.execute(run, PauseWorkflow(), actor="test")
        book = RedisNotices(world.store)

        async def both_wait() -> bool:
            waiting = await book.undelivered()
            return bool(waiting) and waiting[0].count == 2 and waiting[0].attempts > 1

        await eventually(both_wait)
        (waiting,) = await book.undelivered()
        assert "Connect call failed" in waiting.problem
        (check,) = await check_notices(book)
        assert (check.name, check.status) == ("notices", "warning")
        assert f"2 wait for the webhook at http://127.0.0.1:{port}" in check.detail
        async with receiving(port) as back:
            back.status = 503

            async def it_failed_often() -> bool:
                return back.refused >= 4

            await eventually(it_failed_often)
            back.status = 200
            await eventually(lambda: _has(back, 2))
            assert sorted(back.kinds()) == ["incident-opened", "incident-over"]
            taken = [document["id"] for document in back.notices]
            assert sorted(taken) == sorted(set(back.ids))
            assert await book.undelivered() == []
            assert await check_notices(book) == []


async def test_redirects_are_not_followed(world: World) -> None:
    """Neither is a body sent to where one points, nor does it count as taken."""
    async with receiving() as elsewhere, receiving() as receiver:
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        async with Webhook(receiver.url, SECRET, source="", namespace="", private=True) as webhook:
            assert "redirects are not followed" in (await webhook.send(NOTICE) or "")
        assert (receiver.refused, elsewhere.ids) == (1, [])


async def test_a_receiver_that_does_not_answer_is_left() -> None:
    """When its time is over."""
    async with receiving() as receiver:
        receiver.open.clear()
        webhook = Webhook(receiver.url, SECRET, source="", namespace="", private=True, timeout_seconds=0.3)
        async with webhook:
            assert await webhook.send(NOTICE) == "no answer within 0.3 s"
        receiver.open.set()


async def test_of_an_answer_only_its_status_is_read() -> None:
    """One without end is not waited for."""
    endless = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 100_000)
        await endless.wait()
        return response

    app = web.Application()
    app.router.add_post("/hook", answer)
    async with TestServer(app) as server:
        webhook = Webhook(str(server.make_url("/hook")), SECRET, source="", namespace="", private=True)
        async with webhook, asyncio.timeout(webhook.timeout_seconds / 2):
            assert await webhook.send(NOTICE) is None
        endless.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[fec0::1]"])
async def test_addresses_inside_are_refused(host: str) -> None:
    """Also by a name, or in another spelling; with the setting to use if it is meant. Nothing is even connected."""
    async with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        async with Webhook(url, SECRET, source="", namespace="") as webhook:
            problem = await webhook.send(NOTICE)
    assert problem
    assert "TAILRACE_WEBHOOKS_PRIVATE" in problem
    assert receiver.ids == []


async def test_an_address_that_is_public_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the very socket that was checked. (This machine's own stands for one of the internet.)"""
    checked: list[str] = []

    def is_public(address: str) -> bool:
        checked.append(address)
        return True

    monkeypatch.setattr("tailrace.gateway.webhooks.is_public", is_public)
    async with receiving() as receiver, Webhook(receiver.url, SECRET, source="", namespace="") as webhook:
        assert await webhook.send(NOTICE) is None
        assert receiver.kinds() == ["run-failed"]
    assert checked == ["127.0.0.1"]


async def test_a_name_that_changes_its_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the address of the very connection: first a public one, then one inside."""
    async with receiving() as receiver:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        asked = []

        async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
            asked.append(host)
            return [
                {
                    "hostname": host,
                    "host": "127.0.0.1",
                    "port": port,
                    "family": socket.AF_INET,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
            ]

        monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
        async with Webhook(f"http://hooks.example.com:{port}/hook", SECRET, source="", namespace="") as webhook:
            assert "127.0.0.1 is not public" in (await webhook.send(NOTICE) or "")
    assert asked == ["hooks.example.com"]
    assert receiver.ids == []


def test_a_notice_is_of_bounded_size() -> None:
    """Whatever is in it."""
    incident = Incident(
        id="i", cause="c", scope="s" * 100_000, hop="h", summary="s", suggestion="s", opened_at=1, named=("r",)
    )
    notice = Notice(id="i:opened", kind="incident-opened", at=1, incident=incident)
    assert len(notice_document(notice, "urn:x", "test")) <= LIMIT_BYTES


async def _has(receiver: Receiver, number: int) -> bool:
    return len(receiver.notices) >= number
