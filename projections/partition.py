"""Reading one partition: from its checkpoint on, batch by batch, until the partition is lost or the reader cancelled.

Invariant: whatever goes wrong, the next attempt begins at the checkpoint, so nothing is lost and nothing comes twice.
A log that does not continue stops this partition only, and the reason stands in `partitions.problem`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.core.errors import LogDiverged, TailraceError
from tailrace.core.store.port import RawEntry
from tailrace.projections import archive, checkpoints, ownership, parking
from tailrace.projections.archive import Archive
from tailrace.projections.checkpoints import PartitionLost, Place
from tailrace.projections.continuity import check_dense, check_epoch, check_idle, check_resumes
from tailrace.projections.ownership import Tenure
from tailrace.projections.port import LogSource, Projection
from tailrace.projections.retry import retry_parked
from tailrace.projections.session import UNAVAILABLE, Session, session
from tailrace.projections.writer import Writer

_log = logging.getLogger(__name__)

#: How often a reader that lets a batch grow looks whether it does, in seconds.
LOOK_SECONDS: Final = 0.1

#: It does not when events come at less than this share of the rate before.
FEWER: Final = 0.25


class ReaderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a partition is read. A batch is what waits, up to `batch_size` events; fewer for a while after one that failed.

    `linger_seconds` is the least time between two small batches, six times that at `full_rate` events a second: a row that
    many events of a batch touch is written once; when events stop coming, the wait ends with the next look. `confirm_seconds`
    is how often a synchronous commit follows what moved. `recheck_seconds` is when a stopped partition is looked at again.
    """

    batch_size: int = 4000
    block_seconds: float = 2.0
    linger_seconds: float = 0.05
    full_rate: float = 4500.0
    confirm_seconds: float = 1.0
    recheck_seconds: float = 2.0
    views: int = 5000

    def linger(self, events: int, seconds: float) -> float:
        """How long to let a batch grow after one of `events` that came in `seconds`."""
        load = events / max(seconds, 0.001) / self.full_rate
        return self.linger_seconds * min(max(1.0, 6.0 * load**2), 6.0)


class PartitionReader:
    """Reads one partition that its process owns."""

    def __init__(
        self, url: str, log: LogSource, tenure: Tenure, projections: Sequence[Projection], options: ReaderOptions
    ) -> None:
        self._url = url
        self._log = log
        self._tenure = tenure
        self._partition = tenure.partition
        self._projections = projections
        self._options = options
        self._problem: str | None = ""  # unknown: an owner before may have left one standing
        self._failures = 0
        self._batch_size = options.batch_size

    async def run(self) -> None:
        """Read until the partition is lost; survives every failure of either server."""
        while True:
            try:
                async with session(self._url, f"tailrace projector {self._partition}") as connection:
                    await self._keep_reading(connection)
            except PartitionLost:
                _log.info("partition %d was taken over", self._partition)
                return
            except UNAVAILABLE as error:
                self._say("Postgres is not available: %s: %s", type(error).__name__, error)
            await self._back_off()

    async def _keep_reading(self, connection: Session) -> None:
        """Follow the log; what is wrong with the log, not with Postgres, is shown and tried again."""
        while True:
            try:
                await self._follow(connection)
            except (PartitionLost, *UNAVAILABLE):
                raise
            except LogDiverged as error:
                await self._show(connection, f"{error.code}: {error}")
                await asyncio.sleep(self._options.recheck_seconds)
            except TailraceError as error:
                await self._show(connection, f"{error.code}: {error}")
                await self._back_off()
            except Exception as error:  # noqa: BLE001  a fault of ours stops this partition alone, and is shown
                _log.exception("partition %d can't be projected", self._partition)
                await self._show(connection, f"internal: {type(error).__name__}: {error}")
                await self._back_off()

    async def _follow(self, connection: Session) -> None:
        parked = await parking.parked_runs(connection, self._partition)
        writer = Writer(connection, self._tenure, parked, views=self._options.views)
        place = await self._catch_up(connection, writer)
        await retry_parked(connection, self._tenure, self._projections, parked)
        await self._check_log(connection, place)
        # Also what an owner before left unconfirmed.
        confirm_at: float | None = time.monotonic() + self._options.confirm_seconds
        read_at = time.monotonic()
        while True:
            block = self._options.block_seconds
            if confirm_at is not None:
                block = min(block, max(confirm_at - time.monotonic(), 0.001))
            entries = await self._log.read_log(
                self._partition, place.position, count=self._batch_size, block_seconds=block
            )
            before, read_at = read_at, time.monotonic()
            if entries:
                check_dense(self._partition, place, entries)
                is_small = len(entries) < self._batch_size
                place = await self._write(writer, self._projections, place, entries)
                confirm_at = confirm_at or time.monotonic() + self._options.confirm_seconds
            else:
                await check_idle(self._log, self._partition, place, await self._log.head(self._partition))
            self._failures = 0
            if self._problem is not None:
                await self._show(connection, None)
            if confirm_at is not None and time.monotonic() >= confirm_at:
                await checkpoints.confirm(connection, self._partition, self._tenure.epoch)
                confirm_at = None
            if entries and is_small:
                await self._linger(place, len(entries), read_at - before)

    async def _linger(self, place: Place, events: int, seconds: float) -> None:
        """Let a batch grow after one of `events` that came in `seconds`, as long as they keep coming as they did."""
        seen, seen_at = place.seq, time.monotonic()
        until = seen_at + self._options.linger(events, seconds)
        while (left := until - time.monotonic()) > LOOK_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            head, now = await self._log.head(self._partition), time.monotonic()
            if head.seq - seen < FEWER * events * (now - seen_at) / max(seconds, 0.001):
                return
            seen, seen_at = head.seq, now
        await asyncio.sleep(left)

    async def _catch_up(self, connection: Session, writer: Writer) -> Place:
        """Bring projections that are behind the archive up to it, from the archive; gives the place all are at."""
        while True:
            places = await checkpoints.places(connection, self._partition, self._tenure.epoch)
            target = places[Archive.name]
            low = min(places.values(), key=lambda place: place.seq)
            if low.seq >= target.seq:
                return target
            lagging = [projection for projection in self._projections if places[projection.name] == low]
            until = min(place.seq for place in places.values() if place.seq > low.seq)
            writer.forget()
            await self._replay(connection, writer, lagging, low, until)
            writer.forget()

    async def _replay(
        self, connection: Session, writer: Writer, lagging: Sequence[Projection], place: Place, until: int
    ) -> None:
        names = ", ".join(projection.name for projection in lagging)
        _log.info("partition %d: %s from the archive, %d to %d", self._partition, names, place.seq, until)
        clear = place.seq == 0
        while place.seq < until:
            entries = await archive.stretch(
                connection, self._partition, after=place.seq, until=until, count=self._batch_size
            )
            if not entries:
                raise LogDiverged(self._partition, f"the archive holds nothing between {place.seq} and {until}")
            place = await self._write(writer, lagging, place, entries, clear=clear)
            clear = False

    async def _write(
        self,
        writer: Writer,
        projections: Sequence[Projection],
        place: Place,
        entries: Sequence[RawEntry],
        *,
        clear: bool = False,
    ) -> Place:
        """Write one batch; gives the place after it.

        One that Postgres ended may have been too much for a limit on transactions or statements: the next one is half of it.
        """
        try:
            place = await writer.write(projections, place, entries, clear=clear)
        except UNAVAILABLE:
            self._batch_size = max(1, len(entries) // 2)
            raise
        self._batch_size = min(self._options.batch_size, 2 * self._batch_size)
        return place

    async def _check_log(self, connection: Session, place: Place) -> None:
        head = await self._log.head(self._partition)
        known = await ownership.log_epoch(connection, self._tenure)
        check_epoch(self._partition, known, head)
        await check_resumes(self._log, self._partition, place, head)
        if not known and head.epoch:
            await ownership.set_log_epoch(connection, self._tenure, head.epoch)

    async def _show(self, connection: Session, problem: str | None) -> None:
        if problem == self._problem:
            return
        if problem is None and self._problem:
            _log.info("partition %d goes on", self._partition)
        elif problem is not None:
            _log.error("partition %d stands still: %s", self._partition, problem)
        await ownership.show_problem(connection, self._tenure, problem)
        self._problem = problem

    async def _back_off(self) -> None:
        delay = min(0.05 * 2**self._failures, 1.0)
        self._failures = min(self._failures + 1, 10)
        await asyncio.sleep(delay)

    def _say(self, message: str, *facts: object) -> None:
        level = logging.WARNING if self._failures == 0 else logging.DEBUG
        _log.log(level, "partition %d: " + message, self._partition, *facts)
