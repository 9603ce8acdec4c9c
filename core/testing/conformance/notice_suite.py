"""What every notice book promises: one reader, steps that are whole or not at all, and notices that wait until they arrived."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.events import Failure
from tailrace.core.notices import FailedRun, Incident, Notice
from tailrace.core.store.port import NOTICES_LIMIT, NoticeBook, NoticeChange, NoticePage, Position, Undelivered
from tailrace.core.testing.conformance.harness import Harness

LEASE_SECONDS = 0.3
CLAIM_SECONDS = 0.3

INCIDENT = Incident(
    id="i1",
    cause="no-worker",
    scope="agent builder",
    hop="delivery",
    summary="nobody is there",
    suggestion="start one",
    opened_at=5,
    runs=2,
    standing=2,
    named=("run-1", "run-2"),
)
PLACE = Position(entry_id="7-1", seq=3, epoch="e1")


def notice(name: str) -> Notice:
    """A run that failed."""
    error = Failure(reason="broken", message="it broke")
    return Notice(id=name, kind="run-failed", at=7, run=FailedRun(workflow_id=name, error=error))


class NoticeSuite:
    """Subclass it, and give a fixture `backend`."""

    async def test_one_reads_at_a_time(self, backend: Harness) -> None:
        """Until it gives up, or does not renew; then its former epoch counts for nothing."""
        first, second = backend.notices(), backend.notices()
        epoch = await first.lead("a", None, seconds=LEASE_SECONDS)
        assert epoch is not None
        assert await second.lead("b", None, seconds=LEASE_SECONDS) is None
        assert await first.lead("a", epoch, seconds=LEASE_SECONDS) == epoch
        await backend.advance(LEASE_SECONDS + 0.01)
        other = await second.lead("b", None, seconds=LEASE_SECONDS)
        assert other is not None
        assert other > epoch
        assert await first.lead("a", epoch, seconds=LEASE_SECONDS) is None
        assert await second.lead("b", other, seconds=0) == other
        assert await first.lead("a", None, seconds=LEASE_SECONDS) is not None

    async def test_a_step_is_written_as_a_whole(self, backend: Harness) -> None:
        """And seen so by everybody; None takes something off."""
        book = backend.notices()
        assert await book.read() == NoticePage(version=0)
        standing: dict[str, str | None] = {"run-1": INCIDENT.key, "run-2": INCIDENT.key}
        change = NoticeChange(
            version=0,
            positions={1: PLACE},
            incidents={INCIDENT.key: INCIDENT},
            standing=standing,
            notices=[notice("n1")],
            targets={"here": "us", "there": "them"},
        )
        assert await book.write(change) == 0
        other = backend.notices()
        targets = {"here": "us", "there": "them"}
        assert await other.read() == NoticePage(
            version=1, positions={1: PLACE}, incidents={INCIDENT.key: INCIDENT}, targets=targets
        )
        assert await other.standing(["run-1", "run-2", "run-3"]) == standing
        assert await other.standing([]) == {}
        for target in ("here", "there"):
            claimed = await other.claim(target, seconds=60)
            assert claimed is not None
            assert (claimed.target, claimed.notice) == (target, notice("n1"))
        assert await other.claim("elsewhere", seconds=60) is None
        later = replace(PLACE, seq=4)
        change = NoticeChange(
            version=1, positions={0: later}, incidents={INCIDENT.key: None}, standing={"run-1": None, "run-3": "x"}
        )
        assert await other.write(change) == 0
        assert await book.read() == NoticePage(version=2, positions={0: later, 1: PLACE}, targets=targets)
        assert await book.standing(["run-1", "run-2", "run-3"]) == {"run-2": INCIDENT.key, "run-3": "x"}

    async def test_of_two_steps_from_one_version_one_is_written(self, backend: Harness) -> None:
        """The other leaves nothing behind: whoever made it has to read again."""
        changes = [
            NoticeChange(version=0, positions={number: PLACE}, notices=[notice(f"n{number}")], targets={"here": "us"})
            for number in range(4)
        ]
        written = await asyncio.gather(*(backend.notices().write(change) for change in changes))
        assert sorted(written, key=str) == [0, None, None, None]
        book = backend.notices()
        (number,) = (await book.read()).positions
        assert [await self._claimed(backend, "here") for _ in range(2)] == [f"n{number}", None]

    async def test_a_claimed_notice_is_nobody_elses_for_a_while(self, backend: Harness) -> None:
        """After that it is claimed again, and the former holder changes nothing any more."""
        book = await self._with(backend, "n1")
        first = await book.claim("here", seconds=CLAIM_SECONDS)
        assert first is not None
        assert await self._claimed(backend, "here") is None
        await backend.advance(CLAIM_SECONDS + 0.01)
        second = await backend.notices().claim("here", seconds=CLAIM_SECONDS)
        assert second is not None
        assert (second.notice, second.attempts) == (first.notice, 0)
        assert not await book.settle(first, due_at=None)
        assert not await book.settle(first, due_at=second.until)
        assert await book.settle(second, due_at=None)
        assert not await book.settle(second, due_at=None)
        await backend.advance(CLAIM_SECONDS + 0.01)
        assert await self._claimed(backend, "here") is None

    async def test_a_notice_that_failed_waits_for_its_time(self, backend: Harness) -> None:
        """With its attempts and the last problem; others are not held up."""
        book = await self._with(backend, "n1", "n2")
        claimed = await book.claim("here", seconds=60)
        assert claimed is not None
        assert claimed.notice.id == "n1"
        due_at = await backend.store.now() + to_us(CLAIM_SECONDS)
        assert await book.settle(replace(claimed, attempts=1, problem="it answered 503"), due_at=due_at)
        assert await self._claimed(backend, "here") == "n2"
        assert await self._claimed(backend, "here") is None
        await backend.advance(CLAIM_SECONDS + 0.01)
        again = await book.claim("here", seconds=60)
        assert again is not None
        assert (again.notice.id, again.attempts, again.problem) == ("n1", 1, "it answered 503")

    async def test_what_waits_can_be_seen(self, backend: Harness) -> None:
        """How many there are for a target, and what is wrong with the one that is due next."""
        book = await self._with(backend, "n1", "n2")
        assert await book.undelivered() == [Undelivered(target="here", title="us", count=2)]
        claimed = await book.claim("here", seconds=60)
        assert claimed is not None
        assert await book.settle(replace(claimed, attempts=3, problem="it answered 503"), due_at=1)
        assert await book.undelivered() == [
            Undelivered(target="here", title="us", count=2, attempts=3, problem="it answered 503")
        ]

    async def test_what_waits_is_bounded(self, backend: Harness) -> None:
        """What does not fit in is counted; the step is written nevertheless."""
        book = backend.notices()
        change = NoticeChange(
            version=0,
            positions={1: PLACE},
            notices=[notice(f"n{number}") for number in range(NOTICES_LIMIT + 2)],
            targets={"here": "us"},
        )
        assert await book.write(change) == 2
        assert (await book.read()).positions == {1: PLACE}
        (waiting,) = await book.undelivered()
        assert waiting.count == NOTICES_LIMIT

    @staticmethod
    async def _with(backend: Harness, *names: str) -> NoticeBook:
        book = backend.notices()
        change = NoticeChange(version=0, notices=[notice(name) for name in names], targets={"here": "us"})
        assert await book.write(change) == 0
        return book

    @staticmethod
    async def _claimed(backend: Harness, target: str) -> str | None:
        """The id of the notice that one more process gets."""
        claimed = await backend.notices().claim(target, seconds=60)
        return None if claimed is None else claimed.notice.id
