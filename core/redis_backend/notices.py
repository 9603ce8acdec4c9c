"""`NoticeBook` on Redis. All its keys lie in one slot, so that one script writes a step of it as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.codec import decode, encode
from tailrace.core.notices import Incident, Notice
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.replies import pairs
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import NOTICES_LIMIT, ClaimedNotice, NoticeChange, NoticePage, Position, Undelivered

#: When notices are forgotten that nobody claims any more, in milliseconds.
EXPIRY_MS: Final = 3 * 24 * 3600 * 1000

_VERSION: Final = b"version"
_POSITION: Final = "position:"
_INCIDENT: Final = "incident:"
_TARGET: Final = "target:"


class Waiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A notice as it waits for one target."""

    notice: Notice
    attempts: int = 0
    problem: str = ""


class RedisNotices:
    """The book of the store's namespace."""

    def __init__(self, store: RedisStore) -> None:
        self._client = store.client
        self._keys = store.keys

    async def lead(self, name: str, epoch: int | None, *, seconds: float) -> int | None:
        """As the ownership of a partition."""
        args: list[Argument] = [name, "" if epoch is None else epoch, to_us(seconds)]
        held = int(await self._client.call(scripts.OWNER, [self._keys.notices_owner], args))
        return held or None

    async def read(self) -> NoticePage:
        """One HGETALL: incidents that stand are few."""
        fields = pairs(await self._client.command("HGETALL", self._keys.notices))
        version = int(fields.pop(_VERSION, b"0"))
        named = {name.decode(): value for name, value in fields.items()}
        return NoticePage(
            version=version,
            positions={
                int(name.removeprefix(_POSITION)): decode(value, Position)
                for name, value in named.items()
                if name.startswith(_POSITION)
            },
            incidents={
                name.removeprefix(_INCIDENT): decode(value, Incident)
                for name, value in named.items()
                if name.startswith(_INCIDENT)
            },
            targets={
                name.removeprefix(_TARGET): value.decode() for name, value in named.items() if name.startswith(_TARGET)
            },
        )

    async def standing(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """One HMGET."""
        if not workflow_ids:
            return {}
        found = await self._client.command("HMGET", self._keys.notices_standing, *workflow_ids)
        return {run: key.decode() for run, key in zip(workflow_ids, found, strict=True) if key is not None}

    async def write(self, change: NoticeChange) -> int | None:
        """One script."""
        fields: dict[str, bytes] = {
            **{f"{_POSITION}{number}": encode(position) for number, position in change.positions.items()},
            **{f"{_INCIDENT}{key}": b"" if one is None else encode(one) for key, one in change.incidents.items()},
            **{f"{_TARGET}{target}": title.encode() for target, title in change.targets.items()},
        }
        bodies = {notice.id: encode(Waiting(notice=notice)) for notice in change.notices}
        keys = [key for target in change.targets for key in self._target(target)]
        counts: list[Argument] = [len(change.targets), len(fields), len(change.standing), len(bodies)]
        listed: itertools.chain[Any] = itertools.chain(
            *fields.items(), *((run, key or "") for run, key in change.standing.items()), *bodies.items()
        )
        written, *dropped = await self._client.call(
            scripts.NOTICES_WRITE,
            [self._keys.notices, self._keys.notices_standing, *keys],
            [change.version, *counts, NOTICES_LIMIT, EXPIRY_MS, *listed],
        )
        return int(dropped[0]) if written else None

    async def claim(self, target: str, *, seconds: float) -> ClaimedNotice | None:
        """One script."""
        found = await self._client.call(scripts.NOTICES_CLAIM, self._target(target), [to_us(seconds)])
        if not found:
            return None
        _, body, until = found
        waiting = decode(body, Waiting)
        return ClaimedNotice(
            target=target,
            notice=waiting.notice,
            until=int(until),
            attempts=waiting.attempts,
            problem=waiting.problem,
        )

    async def settle(self, claimed: ClaimedNotice, *, due_at: int | None) -> bool:
        """One script."""
        waiting = Waiting(notice=claimed.notice, attempts=claimed.attempts, problem=claimed.problem)
        args: list[Argument] = [claimed.notice.id, claimed.until, due_at or 0, encode(waiting)]
        return bool(await self._client.call(scripts.NOTICES_SETTLE, self._target(claimed.target), args))

    async def undelivered(self) -> list[Undelivered]:
        """The one that is due first, and how many there are."""
        found = [await self._undelivered(target, title) for target, title in (await self.read()).targets.items()]
        return [one for one in found if one.count]

    async def _undelivered(self, target: str, title: str) -> Undelivered:
        due, out = self._target(target)
        count, first = await self._client.pipeline([("ZCARD", due), ("ZRANGE", due, 0, 0)])
        nothing = Undelivered(target=target, title=title, count=count)
        if not first or (body := await self._client.command("HGET", out, first[0])) is None:
            return nothing
        waiting = decode(body, Waiting)
        return replace(nothing, attempts=waiting.attempts, problem=waiting.problem)

    def _target(self, target: str) -> list[str]:
        return [self._keys.notices_due(target), self._keys.notices_out(target)]
