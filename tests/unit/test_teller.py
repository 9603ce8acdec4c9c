"""Reading for notices and delivering them, on the store in memory and a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random

import pytest
from msgspec.structs import replace

from tailrace.core.commands import FlagStall, PauseWorkflow, ResumeWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import StoreUnavailable
from tailrace.core.notices import Notice
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.notices import MemoryNotices
from tailrace.core.store.port import NoticeChange
from tailrace.core.testing import builders
from tailrace.core.testing.clock import settle
from tailrace.projections.watchdog.delivery import Delivery, DeliveryOptions
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions
from tests.support.waiting import eventually

PIPELINE = builders.pipeline(builders.stage("build", agent="builder"))
OPTIONS = TellerOptions(poll_seconds=0.0, telling=TellingOptions(gather_seconds=5.0, quiet_seconds=60.0))
TARGETS = {"here": "us"}


class World:
    """A store of two partitions with a notice book, and runs that somebody says stand."""

    def __init__(self) -> None:
        self.data = MemoryBackend()
        self.store = self.data.store()
        self.book = self.data.notices()
        self.handler = CommandHandler(self.store)

    def teller(self) -> Teller:
        """One of those that may read."""
        return Teller(self.store, self.data.notices(), TARGETS, OPTIONS)

    async def start(self, workflow_id: str) -> str:
        """A run."""
        await self.store.put_definition(PIPELINE.definition)
        await self.handler.create(builders.create_workflow(PIPELINE, workflow_id), actor="test")
        return workflow_id

    async def flag(self, workflow_id: str) -> None:
        """A stall that many runs share."""
        stall = FlagStall(cause="no-worker", hop="delivery", summary="nobody is there", scope="agent builder")
        await self.handler.execute(workflow_id, stall, actor="watchdog")

    async def waiting(self) -> list[Notice]:
        """All that waits to be told, claimed by this."""
        found = []
        while (claimed := await self.book.claim("here", seconds=3600)) is not None:
            found.append(claimed.notice)
        return found


async def test_it_begins_where_the_log_ends() -> None:
    """What was before anybody was to be told is not; what comes then is, also by another one that goes on."""
    world = World()
    await world.flag(await world.start("run-1"))
    await world.teller().turn()
    await world.flag(await world.start("run-2"))
    await world.teller().turn()
    world.data.clock.advance(5.0)
    await world.teller().turn()
    (notice,) = await world.waiting()
    assert notice.incident is not None
    assert (notice.kind, notice.incident.named, notice.incident.runs) == ("incident-opened", ("run-2",), 1)


async def test_many_that_read_tell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds that the book has changed, and reads again; the lease only saves work."""
    world = World()
    standing = MemoryNotices.standing

    async def slow(self: MemoryNotices, workflow_ids: Sequence[str]) -> dict[str, str]:
        found = await standing(self, workflow_ids)
        await settle(3)  # so that all of them decide on the same version
        return found

    monkeypatch.setattr(MemoryNotices, "standing", slow)
    tellers = [world.teller() for _ in range(4)]
    await asyncio.gather(*(teller.turn() for teller in tellers))
    runs = [await world.start(f"run-{number}") for number in range(40)]
    for run in runs:
        await world.flag(run)
        await asyncio.gather(*(teller.turn() for teller in tellers))
    world.data.clock.advance(5.0)
    for _ in range(2):
        await asyncio.gather(*(teller.turn() for teller in tellers))
    (notice,) = await world.waiting()
    assert notice.incident is not None
    assert notice.incident.runs == 40
    for run in runs:
        await world.handler.execute(run, PauseWorkflow(), actor="test")
        await asyncio.gather(*(teller.turn() for teller in tellers))
    world.data.clock.advance(60.0)
    for _ in range(2):
        await asyncio.gather(*(teller.turn() for teller in tellers))
    (over,) = await world.waiting()
    assert (over.kind, over.subject) == ("incident-over", "agent builder")


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_lost_on_the_way_it_is_told_once(seed: int) -> None:
    """Readers that end anywhere, replies that are lost before or after the step was written, and receivers that take notices
    at once: none is sent twice, each fault that is over had begun, and the count is right.
    """
    world, chance = World(), Random(seed)
    sent: list[Notice] = []
    write, standing = MemoryNotices.write, MemoryNotices.standing

    async def deliver() -> None:
        while (claimed := await world.book.claim("here", seconds=3600)) is not None:
            sent.append(claimed.notice)
            await world.book.settle(claimed, due_at=None)

    class Lossy(MemoryNotices):
        async def standing(self, workflow_ids: Sequence[str]) -> dict[str, str]:
            found = await standing(self, workflow_ids)
            await settle(chance.randrange(4))
            return found

        async def write(self, change: NoticeChange) -> int | None:
            await settle(chance.randrange(4))
            if chance.random() < 0.3:
                raise StoreUnavailable("before it was written")
            written = await write(self, change)
            await deliver()
            await asyncio.sleep(0)
            if chance.random() < 0.3:
                raise StoreUnavailable("after it was written")
            return written

    at_once = TellingOptions(gather_seconds=0.0, quiet_seconds=0.0)
    options = replace(OPTIONS, entries_per_read=7, telling=at_once)
    books = [Lossy(world.data, world.data.notices().book) for _ in range(3)]
    await world.teller().turn()
    runs = [await world.start(f"run-{number}") for number in range(60)]
    for run in runs:
        await world.flag(run)
        if chance.random() < 0.5:
            await world.handler.execute(run, PauseWorkflow(), actor="test")
            if chance.random() < 0.5:
                await world.handler.execute(run, ResumeWorkflow(), actor="test")
                await world.flag(run)
        readings = [asyncio.create_task(Teller(world.store, book, TARGETS, options).turn()) for book in books]
        for reading in readings:
            if chance.random() < 0.2:
                await settle(chance.randrange(12))
                reading.cancel()
        await asyncio.wait(readings)
        assert all(one.cancelled() or isinstance(one.exception(), StoreUnavailable | None) for one in readings)
    while await Teller(world.store, world.book, TARGETS, options).turn():
        pass
    await deliver()
    assert len({notice.id for notice in sent}) == len(sent) > 0
    kinds = [notice.kind for notice in sent]
    assert kinds[::2] == ["incident-opened"] * len(kinds[::2])
    assert kinds[1::2] == ["incident-over"] * len(kinds[1::2])
    stalled = [state for state in await world.store.load_states(runs) if state is not None and state.stall is not None]
    ((_, incident),) = (await world.book.read()).incidents.items()
    assert incident.standing == len(stalled)
    assert len(await world.book.standing(runs)) == len(stalled)


async def test_one_has_the_lease_and_gives_it_up() -> None:
    """So that another one goes on at once when it is stopped."""
    world = World()
    first = asyncio.create_task(world.teller().run())
    await settle(50)
    assert await world.book.lead("other", None, seconds=5.0) is None
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await world.book.lead("other", None, seconds=5.0) is not None


async def test_a_full_store_is_an_incident() -> None:
    """It stands in no run's log, and is told like the others."""
    world = World()
    teller = world.teller()
    await teller.turn()
    for fullness in (0.99, 0.99, 0.5, 0.99, 0.5):
        world.data.fullness = fullness
        world.data.clock.advance(6.0)
        await teller.turn()
    (opened,) = await world.waiting()
    assert (opened.kind, opened.subject) == ("incident-opened", "store")
    world.data.clock.advance(61.0)
    await teller.turn()
    (over,) = await world.waiting()
    assert over.incident is not None
    assert (over.kind, over.incident.cause, over.incident.returned) == ("incident-over", "store-full", 1)


async def test_a_log_that_was_trimmed_under_it(caplog: pytest.LogCaptureFixture) -> None:
    """It says how much it has not seen, and goes on."""
    world = World()
    teller = world.teller()
    await teller.turn()
    await world.start("run-1")
    for partition in world.data.partitions:
        for entry_id in list(partition.log.entries):
            partition.log.delete(entry_id)
    await world.flag("run-1")
    await teller.turn()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "what is in between is not told" in said
    assert len((await world.book.read()).incidents) == 1


class Sender:
    """A target that does what it is told to."""

    target, title, timeout_seconds = "here", "us", 10.0

    def __init__(self, *outcomes: str | None) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[str] = []

    async def send(self, notice: Notice) -> str | None:
        """The next outcome; the last one for ever."""
        self.sent.append(notice.id)
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]


async def book_with(world: World, *names: str) -> None:
    """Notices that wait."""
    notices = [Notice(id=name, kind="run-failed", at=world.data.clock.now()) for name in names]
    assert await world.book.write(NoticeChange(version=0, notices=notices, targets=TARGETS)) == 0


async def test_a_failed_delivery_is_tried_again_ever_later() -> None:
    """Twice as long each time, less a random part, up to a limit; until it has arrived."""
    world = World()
    await book_with(world, "n1")
    options = DeliveryOptions(first_seconds=1.0, longest_seconds=10.0)
    delivery = Delivery(world.store, world.book, Sender("it answered 503"), options)
    waits = []
    for _ in range(7):
        waits.append(await delivery.deliver())
        world.data.clock.advance(10.0)
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4, 8, 10, 10, 10), strict=True))
    (waiting,) = await world.book.undelivered()
    assert (waiting.title, waiting.attempts, waiting.problem) == ("us", 7, "it answered 503")
    sender = Sender(None)
    assert await Delivery(world.store, world.book, sender, options).deliver() == 0.0
    assert sender.sent == ["n1"]
    assert await world.book.undelivered() == []


async def test_a_notice_is_given_up_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """That is said, with the last problem; the target is not asked again."""
    world = World()
    await book_with(world, "n1")
    options = DeliveryOptions(give_up_seconds=3600.0)
    sender = Sender("it answered 503")
    delivery = Delivery(world.store, world.book, sender, options)
    await delivery.deliver()
    world.data.clock.advance(3601.0)
    assert await delivery.deliver() == 0.0
    assert sender.sent == ["n1"]
    assert await world.book.undelivered() == []
    assert "notice n1 to us is given up: it answered 503" in caplog.text


async def test_a_sender_that_ends_in_the_middle_leaves_it_to_another() -> None:
    """When the claim has run out, not before."""
    world = World()
    await book_with(world, "n1")
    begun = asyncio.Event()

    class Hanging(Sender):
        async def send(self, notice: Notice) -> str | None:
            begun.set()
            await asyncio.Event().wait()
            return None

    sending = asyncio.create_task(Delivery(world.store, world.book, Hanging(None)).deliver())
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    sender = Sender(None)
    delivery = Delivery(world.store, world.book, sender)
    await delivery.deliver()
    assert sender.sent == []
    world.data.clock.advance(15.1)
    await delivery.deliver()
    assert sender.sent == ["n1"]


async def test_a_sender_that_breaks_ends_no_watchdog(caplog: pytest.LogCaptureFixture) -> None:
    """It counts as a failure, and is tried again."""

    class Breaking(Sender):
        async def send(self, notice: Notice) -> str | None:
            raise UnicodeError("no such host")

    world = World()
    await book_with(world, "n1")
    await Delivery(world.store, world.book, Breaking(None)).deliver()
    (waiting,) = await world.book.undelivered()
    assert (waiting.attempts, waiting.problem) == (1, "UnicodeError in its sender")
    assert "broke its sender" in caplog.text


async def test_a_store_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; then reading goes on where the book says."""
    world = World()
    teller = world.teller()
    read = world.store.read_log
    failures = iter([True] * 4)

    async def failing(*args: object, **options: object) -> object:
        if next(failures, False):
            raise StoreUnavailable("gone")
        return await read(*args, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(world.store, "read_log", failing)
    monkeypatch.setattr("tailrace.projections.watchdog.teller._BACKOFF", (0.0,))
    running = asyncio.create_task(teller.run())

    async def has_begun() -> bool:
        return (await world.book.read()).version == 1

    await eventually(has_begun)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert caplog.text.count("nothing is told for now") == 1
