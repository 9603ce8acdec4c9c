"""What is wrong with the store itself: told from memory while it lasts, and taken into the book afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.core.errors import LogDiverged, StoreUnavailable
from tailrace.core.notices import Incident, Notice
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.notices import MemoryNotices
from tailrace.core.testing.clock import ManualClock, settle
from tailrace.projections.watchdog.outage import Outage
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions
from tests.support.waiting import eventually

TELLING = TellingOptions(gather_seconds=5.0, quiet_seconds=60.0)
OPTIONS = TellerOptions(poll_seconds=0.0, look_seconds=0.0, telling=TELLING)
GONE = StoreUnavailable("Redis can't be reached: refused")
OTHER = LogDiverged(0, "it was emptied")


class Sender:
    """A target that takes notices while nothing is wrong with it."""

    title, timeout_seconds = "us", 10.0

    def __init__(self, target: str = "here") -> None:
        self.target = target
        self.problem: str | None = None
        self.tries = 0
        self.taken: list[Notice] = []

    async def send(self, notice: Notice) -> str | None:
        """Take it, or not."""
        self.tries += 1
        if self.problem is None:
            self.taken.append(notice)
        return self.problem


class World:
    """A store that may be away, with a notice book in it. The clock of this machine is another than the store's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = MemoryBackend()
        self.store = self.data.store()
        self.book = self.data.notices()
        self.clock = ManualClock()
        self.senders = [Sender("here"), Sender("there")]
        self.away: Exception | None = None
        now, check = self.store.now, self.store.check_identity

        async def answer() -> int:
            if isinstance(self.away, StoreUnavailable):
                raise self.away
            return await now()

        async def check_identity(partition: int) -> None:
            if self.away is not None:
                raise self.away
            await check(partition)

        for name in ("lead", "read", "standing", "write"):
            monkeypatch.setattr(MemoryNotices, name, self._guarded(getattr(MemoryNotices, name)))
        monkeypatch.setattr(self.store, "now", answer)
        monkeypatch.setattr(self.store, "check_identity", check_identity)
        monkeypatch.setattr("tailrace.projections.watchdog.teller._BACKOFF", (0.0,))

    def _guarded(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same, of a book that lies in the store."""

        async def guarded(*args: Any, **options: Any) -> Any:
            if isinstance(self.away, StoreUnavailable):
                raise self.away
            return await method(*args, **options)

        return guarded

    @asynccontextmanager
    async def watching(self, lease_seconds: float = 5.0) -> AsyncIterator[None]:
        """A teller that runs."""
        outage = Outage(self.senders, TELLING, now=self.clock.now)
        targets = {sender.target: sender.title for sender in self.senders}
        options = replace(OPTIONS, lease_seconds=lease_seconds)
        teller = Teller(self.store, self.data.notices(), targets, options, outage=outage)
        running = asyncio.create_task(teller.run())
        await settle(100)
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def go(self, away: Exception | None) -> None:
        """The store goes away, or (None) comes back, and everybody finds that out."""
        self.away = away
        await settle(100)

    async def pass_time(self, seconds: float) -> None:
        """By both clocks; then everybody has had a turn."""
        self.clock.advance(seconds)
        self.data.clock.advance(seconds)
        await settle(100)

    async def waiting(self, target: str = "here") -> list[Notice]:
        """All that waits in the book for a target."""
        found = []
        while (claimed := await self.book.claim(target, seconds=3600)) is not None:
            found.append(claimed.notice)
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """One whose store is there."""
    return World(monkeypatch)


@pytest.mark.parametrize(("away", "cause"), [(GONE, "store-unreachable"), (OTHER, "log-diverged")])
async def test_an_outage_is_told_while_it_lasts(world: World, away: Exception, cause: str) -> None:
    """Once, to everybody, without the book; that it is over is told from the book, when it was quiet for long enough."""
    async with world.watching():
        await world.go(away)
        await world.pass_time(4.0)
        assert [sender.tries for sender in world.senders] == [0, 0], "it may be a restart"
        for _ in range(5):
            await world.pass_time(2.0)
        (here,), (there,) = (sender.taken for sender in world.senders)
        assert here == there
        assert (here.kind, here.subject) == ("incident-opened", "store")
        assert here.incident is not None
        assert (here.incident.cause, here.incident.suggestion) == (cause, "tailrace doctor")
        assert str(away) in here.incident.summary
        await world.go(None)
        await world.pass_time(1.0)
        assert await world.waiting() == []
        await world.pass_time(60.0)
        (over,) = await world.waiting()
        assert over.incident is not None
        assert (over.kind, over.incident.id) == ("incident-over", here.incident.id)
        assert over.incident.quiet_since == over.at
        assert (await world.book.read()).incidents == {}
    assert [sender.tries for sender in world.senders] == [1, 1]


async def test_a_short_outage_is_not_told(world: World) -> None:
    """A server that is started again is not worth waking anybody."""
    async with world.watching():
        for _ in range(3):
            await world.go(GONE)
            await world.pass_time(4.0)
            await world.go(None)
            await world.pass_time(100.0)
        assert await world.waiting() == []
        assert (await world.book.read()).incidents == {}
    assert [sender.tries for sender in world.senders] == [0, 0]


async def test_who_was_not_reached_is_tried_again_and_told_from_the_book(world: World) -> None:
    """While the store is away ever more seldom; with the same id when it is back. Who has had it may get it once more."""
    deaf = world.senders[1]
    deaf.problem = "it answered 503"
    async with world.watching():
        await world.go(GONE)
        for _ in range(30):
            await world.pass_time(1.0)
        assert deaf.tries == 4, "after 5, 7, 11 and 19 seconds"
        assert world.senders[0].tries == 1
        await world.go(None)
        await world.pass_time(1.0)
        (notice,) = await world.waiting("there")
        assert notice.id == world.senders[0].taken[0].id
        assert notice.kind == "incident-opened"


async def test_what_comes_back_before_it_was_quiet_is_the_same_incident(world: World) -> None:
    """It is not told again, and how often it came back is told at the end; also by a watchdog that was started in between."""
    async with world.watching():
        await world.go(GONE)
        await world.pass_time(5.0)
        await world.go(None)
        await world.pass_time(10.0)
    async with world.watching():
        for _ in range(2):
            await world.go(GONE)
            await world.pass_time(10.0)
            await world.go(None)
            await world.pass_time(10.0)
        await world.pass_time(60.0)
        (over,) = await world.waiting()
    assert over.incident is not None
    assert (over.kind, over.incident.returned) == ("incident-over", 2)
    assert [sender.tries for sender in world.senders] == [1, 1]


async def test_one_of_several_tells(world: World) -> None:
    """The one that reads when the store goes away. It writes it down also when somebody else reads afterwards."""
    async with world.watching(0.003), world.watching(0.003), world.watching(0.003):
        await world.go(GONE)
        await world.pass_time(5.0)
        assert [sender.tries for sender in world.senders] == [1, 1]
        await world.pass_time(20.0)
        world.away = None
        assert await world.book.lead("somebody else", None, seconds=3600.0) is not None

        async def written() -> list[Incident]:
            return list((await world.book.read()).incidents.values())

        (incident,) = await eventually(written)
        assert (incident.cause, incident.told) == ("store-unreachable", True)
    assert [sender.tries for sender in world.senders] == [1, 1]


async def test_who_reads_ends_what_another_one_has_written(world: World) -> None:
    """It finds the incident in the book, though it had it in memory without."""
    outage = Outage(world.senders, TELLING, now=world.clock.now)
    reader = Teller(world.store, world.book, {"here": "us"}, OPTIONS)
    other = Teller(world.store, world.data.notices(), {"here": "us"}, OPTIONS, outage=outage)
    await reader.turn()
    for _ in range(2):
        await outage.seen(GONE)
        world.clock.advance(5.0)
    await other.turn()
    world.data.clock.advance(60.0)
    await reader.turn()
    (over,) = await world.waiting()
    assert (over.kind, over.id.partition(":")[0]) == ("incident-over", world.senders[0].taken[0].id.partition(":")[0])


async def test_a_sender_that_breaks_is_no_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it does, the others are told."""
    broken = world.senders[0]

    async def send(notice: Notice) -> str | None:
        raise UnicodeError("no such host")

    broken.send = send  # type: ignore[method-assign]  # that one alone
    async with world.watching():
        await world.go(GONE)
        await world.pass_time(5.0)
        assert world.senders[1].tries == 1
    assert "broke its sender" in caplog.text
