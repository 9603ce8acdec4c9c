"""The teller: reads the log for faults and failed runs, and puts what is to be told into the notice book.

What was told is in the store, and it follows from the log alone. So a watchdog that is killed after it flagged a run loses
nothing: the next one goes on reading where the book says. Several may run: one has the lease and reads, and a step is written
only at the version of the book that it was decided on, so nothing is told twice. Postgres is not needed. While there is no
store, and so no book, `outage` tells.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tailrace.core.clock import to_us
from tailrace.core.codec import decode_event
from tailrace.core.errors import LogDiverged, StoreCorrupt, StoreUnavailable, TailraceError, Undecodable
from tailrace.core.store.port import NoticeBook, NoticeChange, NoticePage, Position, RawEntry, WorkflowStore
from tailrace.projections.watchdog.outage import Outage
from tailrace.projections.watchdog.rules import FULL, store_full
from tailrace.projections.watchdog.telling import TOLD, Telling, TellingOptions, Told, failed_runs

log = logging.getLogger(__name__)

_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)


class TellerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a teller reads; times in seconds. A place in the log at which nothing was to be told is written down seldom, each
    `note_seconds`; how full the store is, and whether somebody else wrote the book, is looked at each `look_seconds`.
    """

    poll_seconds: float = 0.5
    lease_seconds: float = 5.0
    entries_per_read: int = 200
    note_seconds: float = 10.0
    look_seconds: float = 5.0
    telling: TellingOptions = TellingOptions()


class Teller:
    """Reads every partition of a store. `targets`: who is told, with what people call them."""

    def __init__(
        self,
        store: WorkflowStore,
        book: NoticeBook,
        targets: Mapping[str, str],
        options: TellerOptions | None = None,
        *,
        outage: Outage | None = None,
    ) -> None:
        self._store = store
        self._book = book
        self._targets = dict(targets)
        self._options = options or TellerOptions()
        self._outage = outage or Outage((), self._options.telling)
        self._name = f"teller-{os.getpid()}-{os.urandom(4).hex()}"
        self._epoch: int | None = None
        self._renewed_at = 0.0
        self._page: NoticePage | None = None
        self._positions: dict[int, Position] = {}
        self._noted_at = -math.inf
        self._looked_at = 0

    async def run(self) -> None:
        """Read until cancelled, whenever the lease is ours; then give it up, so that another one can go on at once."""
        failures = 0
        try:
            while True:
                wait = self._options.poll_seconds
                try:
                    more = await self._turn_if_leading()
                    wait, failures = 0.0 if more else wait, 0
                except (StoreUnavailable, LogDiverged, TimeoutError) as error:
                    if not failures:
                        log.warning("nothing is told for now: %s", str(error) or "the store did not answer in time")
                    wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                    failures += 1
                    self._page = None
                    if self._epoch is not None or self._outage.stands:
                        await self._outage.seen(error)
                except Exception:
                    log.exception("reading for notices was given up for a while")
                    wait = _BACKOFF[-1]
                    self._page = None
                await asyncio.sleep(wait)
        finally:
            await self._give_up()

    async def turn(self) -> bool:
        """One step over all partitions; True when there is more to read. Raises `StoreUnavailable`, `LogDiverged`."""
        now = await self._store.now()
        looking = now - self._looked_at >= to_us(self._options.look_seconds)
        page = await self._current_page(afresh=looking)
        self._outage.remember(page.incidents)
        reads = await asyncio.gather(*(self._read(partition) for partition in range(self._store.partitions)))
        # (Only when all have been read: what is read besides a failure must not count as told.)
        for partition, entries in enumerate(reads):
            self._go_on(partition, entries)
        told = [one for entries in reads for one in _told(entries)]
        telling = Telling(
            page.incidents,
            await self._book.standing(list(dict.fromkeys(one.workflow_id for one in told))),
            self._options.telling,
        )
        for incident in self._outage.ended(now):
            telling.put(incident)
        if looking:
            await self._look_at_the_store(telling, now)
        telling.take(told, await self._types(failed_runs(told)), now)
        telling.settle(now)
        changed = telling.incidents or telling.standing or telling.notices
        if not (changed or self._is_to_be_noted(page)) or await self._write(page, telling):
            self._outage.forget()
        return any(len(entries) >= self._options.entries_per_read for entries in reads)

    async def _turn_if_leading(self) -> bool:
        clock = asyncio.get_running_loop().time()
        if self._epoch is None or clock - self._renewed_at >= self._options.lease_seconds / 3:
            await self._store.check_identity(0)  # a lease is not for a namespace that is another one
            self._epoch = await self._book.lead(self._name, self._epoch, seconds=self._options.lease_seconds)
            self._renewed_at = clock
            if self._epoch is None:
                self._page = None
        # (What only we know of an outage is written also when somebody else reads by now.)
        return False if self._epoch is None and not self._outage.stands else await self.turn()

    async def _current_page(self, *, afresh: bool) -> NoticePage:
        """As it was last written by us, or as it is in the store; partitions that were never read begin at their end.

        `afresh`: look whether somebody else has written it, who is not the one that reads: an outage is theirs to write down.
        """
        known, page = self._page, None
        if known is not None and afresh and (page := await self._book.read()).version != known.version:
            self._page = None
        if self._page is None:
            page = page or await self._book.read()
            self._positions = dict(page.positions)
            for partition in range(self._store.partitions):
                await self._store.check_identity(partition)
                self._positions[partition] = await self._place(partition, page.positions.get(partition))
            self._page, self._noted_at = page, -math.inf
        return self._page

    async def _place(self, partition: int, known: Position | None) -> Position:
        """Where to go on: after what was read, unless that is not in this log."""
        head = await self._store.head(partition)
        if known is not None and known.epoch == head.epoch and known.seq <= head.seq:
            return known
        if known is not None:
            log.error(
                "partition %d: the log is another one than was read for notices; what happened in between is not told",
                partition,
            )
        return Position(entry_id=head.last_entry_id, seq=head.seq, epoch=head.epoch)

    async def _read(self, partition: int) -> Sequence[RawEntry]:
        place = self._positions[partition]
        return await self._store.read_log(partition, place.entry_id, count=self._options.entries_per_read)

    def _go_on(self, partition: int, entries: Sequence[RawEntry]) -> None:
        place = self._positions[partition]
        if entries:
            if entries[0].seq != place.seq + 1:
                log.error(
                    "partition %d: the log goes on with event %d after %d was read; what is in between is not told",
                    partition,
                    entries[0].seq,
                    place.seq,
                )
            last = entries[-1]
            self._positions[partition] = Position(entry_id=last.entry_id, seq=last.seq, epoch=place.epoch)

    async def _look_at_the_store(self, telling: Telling, now: int) -> None:
        """A store that is full, or is another one, stands in no run's log."""
        self._looked_at = now
        await asyncio.gather(*(self._store.check_identity(number) for number in range(self._store.partitions)))
        fullness = await self._store.fullness()
        telling.see(store_full(fullness, aside=False), now, shows=fullness >= FULL)

    async def _types(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """The pipelines of these runs, as far as they can be read: one that can't be must not keep the others from being told."""
        if not workflow_ids:
            return {}
        try:
            states = await self._store.load_states(workflow_ids)
        except (Undecodable, StoreCorrupt):
            if len(workflow_ids) == 1:
                return {}
            return {run: kind for one in workflow_ids for run, kind in (await self._types([one])).items()}
        return {state.workflow_id: state.type for state in states if state is not None}

    def _is_to_be_noted(self, page: NoticePage) -> bool:
        clock = asyncio.get_running_loop().time()
        return self._positions != page.positions and clock - self._noted_at >= self._options.note_seconds

    async def _write(self, page: NoticePage, telling: Telling) -> bool:
        """Write one step; False when the book is at another version, and nothing was written."""
        change = NoticeChange(
            version=page.version,
            positions={
                partition: place
                for partition, place in self._positions.items()
                if page.positions.get(partition) != place
            },
            incidents=telling.incidents,
            standing=telling.standing,
            notices=telling.notices,
            targets=self._targets if telling.notices else {},
        )
        # Whatever becomes of it: if it is not written, or nobody knows, the book says where to go on.
        self._page = None
        dropped = await self._book.write(change)
        if dropped is None:
            return False
        if dropped:
            log.error("%d notices are dropped: too many wait for their receivers", dropped)
        self._noted_at = asyncio.get_running_loop().time()
        incidents = {**page.incidents, **telling.incidents}
        self._page = NoticePage(
            version=page.version + 1,
            positions=dict(self._positions),
            incidents={key: incident for key, incident in incidents.items() if incident is not None},
            targets=page.targets,
        )
        return True

    async def _give_up(self) -> None:
        if self._epoch is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._book.lead(self._name, self._epoch, seconds=0)
        except (TailraceError, TimeoutError):
            pass  # its time runs out by itself


def _told(entries: Sequence[RawEntry]) -> list[Told]:
    """Events that may have to be told. What can't be decoded is its projector's to park, and nothing is known of it here."""
    found = []
    for entry in entries:
        if entry.type not in TOLD:
            continue
        try:
            decoded = decode_event(entry.type, entry.data)
        except Undecodable as error:
            log.warning("event %s:%d can't be read for notices: %s", entry.workflow_id, entry.version, error)
            continue
        found.append(Told(workflow_id=entry.workflow_id, version=entry.version, at=decoded.at, event=decoded.event))
    return found
