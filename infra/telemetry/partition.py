"""Sending the spans of one partition: from its position on, stretch by stretch.

Invariant: the position moves only when the collector has taken what ended before it, and only for the owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.core.clock import to_us
from tailrace.core.errors import TailraceError, Undecodable
from tailrace.core.store.port import RawEntry
from tailrace.core.workflow.history import Record
from tailrace.infra.telemetry.ports import Archive, Exporter, Log, PositionKeeper
from tailrace.infra.telemetry.span import Span
from tailrace.infra.telemetry.spans import HistoryMissing, SpanEncoder
from tailrace.projections.checkpoints import Place
from tailrace.projections.fold import to_record

log = logging.getLogger(__name__)

#: Entries of a run that are asked for at a time.
HISTORY_PAGE: Final = 500

#: Runs that can't be encoded and are remembered as such.
BROKEN_RUNS: Final = 10_000

#: How often the archive is asked again before it is said that spans wait for it.
PATIENCE: Final = 5

_BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class ReaderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`poll_seconds`: how long to wait when there is nothing new. `history_seconds`: how far back a reader begins that was
    never there before; what ended earlier can be exported by hand.
    """

    poll_seconds: float = 0.5
    batch_size: int = 500
    history_seconds: float = 86_400.0
    backoff_seconds: Sequence[float] = _BACKOFF_SECONDS


class PartitionSpans:
    """One partition, from its position on."""

    def __init__(
        self,
        partition: int,
        store: Log,
        archive: Archive,
        positions: PositionKeeper,
        exporter: Exporter,
        options: ReaderOptions,
    ) -> None:
        self._partition = partition
        self._store = store
        self._archive = archive
        self._positions = positions
        self._exporter = exporter
        self._options = options
        self._encoder = SpanEncoder()
        self._broken: dict[str, None] = {}
        self._place = Place()

    async def begin(self) -> None:
        """Find the place to read on from. Ids of log entries are times, so a first beginning can be a time."""
        place = await self._positions.load(self._partition)
        if place is None:
            since = await self._store.now() - to_us(self._options.history_seconds)
            place = Place(position=f"{max(since, 0) // 1000}-0")
            await self._positions.save(self._partition, place)
        self._place = place

    async def step(self) -> bool:
        """Send what ended in the next stretch, or wait for one; False when the partition is somebody else's."""
        entries = await self._next_entries()
        if not entries:
            await asyncio.sleep(self._options.poll_seconds)
            return True
        spans: list[Span] = []
        for entry in entries:
            spans += await self._encode(entry)
        if spans:
            await self._exporter.export(spans)
        place = Place(position=entries[-1].entry_id, seq=entries[-1].seq)
        if not await self._positions.save(self._partition, place):
            return False
        self._place = place
        return True

    async def _next_entries(self) -> Sequence[RawEntry]:
        """What follows the place: out of the log or, where that was trimmed, out of the archive."""
        count = self._options.batch_size
        entries = await self._store.read_log(self._partition, self._place.position, count=count)
        expected = self._place.seq + 1
        if not entries or self._place.seq == 0 or entries[0].seq <= expected:
            return entries
        archived = await self._archive.log(self._partition, self._place.seq, count)
        if archived and archived[0].seq == expected:
            return [entry for entry in archived if entry.seq < entries[0].seq]
        log.error(
            "partition %d: numbers %d to %d are neither in the log nor in the archive; their spans are lost",
            self._partition,
            expected,
            entries[0].seq - 1,
        )
        return entries

    async def _encode(self, entry: RawEntry) -> list[Span]:
        """The spans that end with an entry. A run that can't be read has no more spans, and that is said once."""
        if entry.workflow_id in self._broken:
            return []
        try:
            record = to_record(entry)
            if not self._encoder.knows(record):
                await self._restore(record)
            return [span for span in self._encoder.feed(record) if span.sampled]
        except (Undecodable, HistoryMissing) as error:
            log.warning("run %s has no more spans: %s", entry.workflow_id, error)
        except TailraceError:
            raise
        except Exception:
            log.exception("run %s has no more spans", entry.workflow_id)
        self._encoder.forget(entry.workflow_id)
        self._broken[entry.workflow_id] = None
        if len(self._broken) > BROKEN_RUNS:
            del self._broken[next(iter(self._broken))]
        return []

    async def _restore(self, record: Record) -> None:
        """Know the run of `record` as it was before it."""
        history: list[Record] = []
        waited = 0
        while len(history) < record.version - 1:
            page = await self._archive.events(record.workflow_id, len(history), HISTORY_PAGE)
            earlier = [to_record(entry) for entry in page if entry.version < record.version]
            history += earlier
            if not earlier:
                # The archive is behind us. Both come from the same log, so it will be there.
                log.log(
                    logging.WARNING if waited == PATIENCE else logging.DEBUG,
                    "spans of partition %d wait for the archive, which lacks version %d of %s",
                    self._partition,
                    len(history) + 1,
                    record.workflow_id,
                )
                waits = self._options.backoff_seconds
                await asyncio.sleep(waits[min(waited, len(waits) - 1)])
                waited += 1
        self._encoder.restore(record.workflow_id, history)
