"""`NoticeBook` in memory. Each call is one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.store.memory.data import MemoryData
from tailrace.core.store.port import NOTICES_LIMIT, ClaimedNotice, NoticeChange, NoticePage, Undelivered


@dataclass
class Book:
    """What all ports made for one namespace share. `waiting`: by target and id; its `until` is when it is due."""

    page: NoticePage = field(default_factory=lambda: NoticePage(version=0))
    standing: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, dict[str, ClaimedNotice]] = field(default_factory=dict)
    leader: tuple[str, int, int] = ("", 0, 0)


class MemoryNotices:
    """The book of a namespace in memory."""

    def __init__(self, data: MemoryData, book: Book) -> None:
        self._data = data
        self.book = book

    async def lead(self, name: str, epoch: int | None, *, seconds: float) -> int | None:
        now = self._data.clock.now()
        holder, held, until = self.book.leader
        if epoch is None:
            if now < until:
                return None
            held += 1
        elif (holder, held) != (name, epoch):
            return None
        self.book.leader = name, held, now + to_us(seconds) if seconds else 0
        return held

    async def read(self) -> NoticePage:
        return self.book.page

    async def standing(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        return {run: self.book.standing[run] for run in workflow_ids if run in self.book.standing}

    async def write(self, change: NoticeChange) -> int | None:
        book, page = self.book, self.book.page
        if page.version != change.version:
            return None
        incidents = {**page.incidents, **change.incidents}
        book.page = NoticePage(
            version=page.version + 1,
            positions={**page.positions, **change.positions},
            incidents={key: incident for key, incident in incidents.items() if incident is not None},
            targets={**page.targets, **change.targets},
        )
        standing = {**book.standing, **change.standing}
        book.standing = {run: key for run, key in standing.items() if key is not None}
        now, dropped = self._data.clock.now(), 0
        for target in change.targets:
            waiting = book.waiting.setdefault(target, {})
            for notice in change.notices:
                if len(waiting) < NOTICES_LIMIT:
                    waiting[notice.id] = ClaimedNotice(target=target, notice=notice, until=now)
                else:
                    dropped += 1
        return dropped

    async def claim(self, target: str, *, seconds: float) -> ClaimedNotice | None:
        now = self._data.clock.now()
        waiting = self.book.waiting.get(target, {})
        due = [one for one in waiting.values() if one.until <= now]
        if not due:
            return None
        first = min(due, key=lambda one: (one.until, one.notice.id))
        claimed = waiting[first.notice.id] = replace(first, until=now + to_us(seconds))
        return claimed

    async def settle(self, claimed: ClaimedNotice, *, due_at: int | None) -> bool:
        waiting = self.book.waiting.get(claimed.target, {})
        known = waiting.get(claimed.notice.id)
        if known is None or known.until != claimed.until:
            return False
        if due_at is None:
            del waiting[claimed.notice.id]
        else:
            waiting[claimed.notice.id] = replace(claimed, until=due_at)
        return True

    async def undelivered(self) -> list[Undelivered]:
        return [
            _undelivered(target, title, list(waiting.values()))
            for target, title in self.book.page.targets.items()
            if (waiting := self.book.waiting.get(target, {}))
        ]


def _undelivered(target: str, title: str, waiting: Sequence[ClaimedNotice]) -> Undelivered:
    first = min(waiting, key=lambda one: one.until)
    return Undelivered(target=target, title=title, count=len(waiting), attempts=first.attempts, problem=first.problem)
