"""Retention: what Postgres has on disk, the store lets go of. The beginning of its logs, and runs that ended long ago.

Invariant: the store is told to forget only what a synchronous commit confirmed for every projection, in partitions that
this process owns and that are read without a problem; and it forgets in steps that never hold it up. How far runs were
forgotten is written down after the store did it: a crash in between does it again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import takewhile
from typing import Final

import asyncpg
import msgspec

from tailrace.core.clock import from_datetime, to_datetime, to_us
from tailrace.core.errors import LogDiverged, StoreUnavailable
from tailrace.core.store.retention import EndedRun, LogPlace
from tailrace.projections.port import ForgettingStore
from tailrace.projections.session import BY_KEY, UNAVAILABLE, Session, connect
from tailrace.projections.sql import statements

_SQL = statements("retention")
_log = logging.getLogger(__name__)

#: A reader that has a position but is no projection is waited for while it moves, up to so many tails behind.
PATIENCE_TAILS: Final = 10


class RetentionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`tail_events` is how many archived events stay in each partition's log; `run_seconds` how long a run stays in the
    store after its end. Logs are looked at each `poll_seconds`, runs each `run_poll_seconds`.

    A reader with a position that moved within `reader_seconds` is waited for. Runs are forgotten in the order of their ends,
    but they are not written in that order: `settle_seconds` is how far that may be out. `trim_count` and `run_count` are how
    much one step takes, and `pause_seconds` is the time for others between two.
    """

    tail_events: int = 10_000
    run_seconds: float = 7 * 86_400.0
    poll_seconds: float = 2.0
    run_poll_seconds: float = 60.0
    reader_seconds: float = 60.0
    settle_seconds: float = 60.0
    trim_count: int = 2000
    run_count: int = 200
    pause_seconds: float = 0.002


class RetentionKeeper:
    """Keeps the retention of the partitions in `owned()`, which the projector called `owner` reads."""

    def __init__(
        self,
        url: str,
        store: ForgettingStore,
        *,
        owner: str,
        owned: Callable[[], Collection[int]],
        options: RetentionOptions | None = None,
    ) -> None:
        self._url = url
        self._store = store
        self._owner = owner
        self._owned = owned
        self._options = options or RetentionOptions()
        self._failures = 0
        self._diverged: set[int] = set()
        #: How often it went through all its partitions.
        self.rounds = 0

    async def run(self) -> None:
        """Forget until cancelled. Fails for nobody: whatever goes wrong is tried again."""
        while True:
            try:
                session = await connect(self._url, f"tailrace retention {self._owner}", more=BY_KEY)
                try:
                    await self._keep(session)
                finally:
                    session.terminate()
            except asyncpg.UndefinedTableError:
                _log.debug("the projector has not migrated yet")
            except StoreUnavailable as error:
                self._say("nothing is forgotten: %s: %s", error.code, error)
            except UNAVAILABLE as error:
                self._say("nothing is forgotten: Postgres is not available: %s", type(error).__name__)
            except Exception:  # noqa: BLE001  a fault of ours must not end the projector beside us
                _log.exception("nothing can be forgotten; trying again")
            self._failures += 1
            await asyncio.sleep(min(self._options.poll_seconds * self._failures, 10.0))

    async def _keep(self, session: Session) -> None:
        expire_at = 0.0
        while True:
            expires = time.monotonic() >= expire_at
            if expires:
                expire_at = time.monotonic() + self._options.run_poll_seconds
            for partition in sorted(self._owned()):
                try:
                    await self._trim(session, partition)
                    if expires:
                        await self._expire(session, partition)
                except LogDiverged as error:
                    # Its reader finds out, too, and says so where people look; the other partitions are as they should be.
                    if partition not in self._diverged:
                        _log.warning("nothing is forgotten: %s: %s", error.code, error)
                    self._diverged.add(partition)
                else:
                    self._diverged.discard(partition)
            self._failures = 0
            self.rounds += 1
            await asyncio.sleep(self._options.poll_seconds)

    async def _trim(self, session: Session, partition: int) -> None:
        options = self._options
        row = await session.fetchrow(
            _SQL["first_kept"],
            partition,
            self._owner,
            options.tail_events,
            options.tail_events * PATIENCE_TAILS,
            options.reader_seconds,
        )
        if row is None:
            return
        first = LogPlace(entry_id=row["entry_id"], seq=row["seq"])
        removed = options.trim_count
        while removed:
            removed = await self._store.trim_log(partition, first, count=options.trim_count)
            await asyncio.sleep(options.pause_seconds)

    async def _expire(self, session: Session, partition: int) -> None:
        confirmed = await session.fetchrow(_SQL["archived"], partition, self._owner)
        if confirmed is None or not confirmed["seq"]:
            return
        until = await self._until(partition, confirmed["seq"], confirmed["event_at"])
        row = await session.fetchrow(_SQL["forgotten"], partition)
        behind = (to_datetime(0), "") if row is None else (row["ended_at"], row["workflow_id"])
        while True:
            rows = await session.fetch(
                _SQL["ended"], partition, *behind, until, confirmed["seq"], self._options.run_count
            )
            ended = list(takewhile(lambda row: row["confirmed"], rows))
            if not ended:
                return
            runs = [EndedRun(workflow_id=row["workflow_id"], version=row["version"]) for row in ended]
            expired = await self._store.expire_runs(partition, runs)
            behind = ended[-1]["completed_at"], ended[-1]["workflow_id"]
            if await session.execute(_SQL["forget"], partition, self._owner, *behind) == "INSERT 0 0":
                return  # somebody else's by now
            _log.info("partition %d: %d runs that ended until %s are forgotten", partition, expired, behind[0])
            await asyncio.sleep(self._options.pause_seconds)

    async def _until(self, partition: int, seq: int, event_at: datetime | None) -> datetime:
        """Before when a run must have ended: whatever ended before is in the read model already.

        While events wait to be read, that is so only for what is older than the last one that was.
        """
        options = self._options
        until = await self._store.now() - to_us(max(options.run_seconds, options.settle_seconds))
        if event_at is not None and (await self._store.head(partition)).seq > seq:
            until = min(until, from_datetime(event_at) - to_us(options.settle_seconds))
        return to_datetime(max(until, 0))

    def _say(self, message: str, *facts: object) -> None:
        _log.log(logging.DEBUG if self._failures else logging.WARNING, message, *facts)
