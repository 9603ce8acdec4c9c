"""Writing: a stretch of the log becomes rows, in one transaction that begins with the checkpoints.

Invariant: rows and checkpoints move together or not at all. A stretch that one value makes impossible is split until
the event with that value is alone; it is parked, and everything else is written. After any other error the writer is
thrown away with its session, and the next one begins at the checkpoint.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

from tailrace.core.errors import Undecodable
from tailrace.core.store.port import RawEntry
from tailrace.projections import archive, batch, checkpoints, parking
from tailrace.projections.archive import Archive
from tailrace.projections.batch import Batch, Decoded
from tailrace.projections.checkpoints import Place
from tailrace.projections.fold import RunView
from tailrace.projections.ownership import Tenure
from tailrace.projections.port import Projection
from tailrace.projections.session import Session, is_poison

_log = logging.getLogger(__name__)


class Writer:
    """Writes one partition over one session. Keeps the views of up to `views` open runs between batches."""

    def __init__(self, session: Session, tenure: Tenure, parked: dict[str, int], *, views: int) -> None:
        self._session = session
        self._partition = tenure.partition
        self._epoch = tenure.epoch
        self._parked = parked
        self._limit = views
        self._views: OrderedDict[str, RunView] = OrderedDict()

    async def write(
        self, projections: Sequence[Projection], old: Place, entries: Sequence[RawEntry], *, clear: bool = False
    ) -> Place:
        """Apply `entries`, which follow the place `old`, to `projections`; gives the place after them.

        `clear` removes the projections' rows first. Raises `PartitionLost`, and what is in `session.UNAVAILABLE`.
        """
        return await self._write(projections, old, batch.decode(entries), clear=clear)

    def forget(self) -> None:
        """Drop all views, before the next write begins elsewhere in the log."""
        self._views.clear()

    async def _write(self, projections: Sequence[Projection], old: Place, decoded: Decoded, *, clear: bool) -> Place:
        try:
            return await self._transaction(projections, old, decoded, {}, clear=clear)
        except Exception as error:
            if not is_poison(error):
                raise
            problem = f"{type(error).__name__}: {error}"
        if len(decoded.entries) > 1:
            middle = len(decoded.entries) // 2
            place = await self._write(projections, old, decoded.cut(0, middle), clear=clear)
            return await self._write(projections, place, decoded.cut(middle, len(decoded.entries)), clear=False)
        return await self._park(projections, old, decoded, problem, clear=clear)

    async def _park(
        self, projections: Sequence[Projection], old: Place, decoded: Decoded, problem: str, *, clear: bool
    ) -> Place:
        """Park a single entry: archived if at all possible, else kept with the parked ones alone."""
        condemned = {decoded.entries[0].entry_id: problem}
        try:
            return await self._transaction(projections, old, decoded, condemned, clear=clear)
        except Exception as error:
            if not is_poison(error):
                raise
        return await self._transaction(projections, old, decoded, condemned, clear=clear, archived=False)

    async def _transaction(
        self,
        projections: Sequence[Projection],
        old: Place,
        decoded: Decoded,
        condemned: dict[str, str],
        *,
        clear: bool,
        archived: bool = True,
    ) -> Place:
        folded = await self._fold(decoded, condemned)
        last = decoded.entries[-1]
        names = [projection.name for projection in projections]
        async with self._session.transaction():
            await checkpoints.move(self._session, self._partition, self._epoch, names, old=old, last=last)
            for projection in projections:
                if clear:
                    await projection.clear(self._session, self._partition)
                if archived or projection.name != Archive.name:
                    await projection.apply(self._session, folded)
            await parking.park(self._session, folded)
        self._remember(folded)
        return Place(position=last.entry_id, seq=last.seq)

    async def _fold(self, decoded: Decoded, condemned: dict[str, str]) -> Batch:
        """Fold onto the views; what is missing is folded from the archive first.

        The archive is read before the transaction: this session's owner is the only one who writes the partition, and
        if that is not so any more, the move of the checkpoints finds out.
        """
        views: dict[str, RunView] = {}
        wanted = batch.missing(decoded, self._views.keys(), self._parked, condemned.keys())
        problems: dict[str, str] = {}
        if wanted:
            histories = await archive.earlier(self._session, wanted)
            for workflow_id, history in histories.items():
                try:
                    view = batch.replay(workflow_id, history).view()
                except Undecodable as error:
                    problems[workflow_id] = f"its earlier history can't be folded: {error}"
                else:
                    if view is not None:
                        views[workflow_id] = view
        for workflow_id in {entry.workflow_id for entry in decoded.entries}:
            if (view := self._views.get(workflow_id)) is not None:
                views[workflow_id] = view
        for entry in decoded.entries if problems else ():
            if entry.workflow_id in problems:
                condemned = {entry.entry_id: problems.pop(entry.workflow_id), **condemned}
        return batch.fold(self._partition, decoded, views, self._parked, condemned)

    def _remember(self, folded: Batch) -> None:
        """Keep what the transaction made true."""
        for item in folded.parked:
            if item.first and item.entry.workflow_id not in self._parked:
                self._parked[item.entry.workflow_id] = item.entry.version
                _log.error(
                    "run %s is parked at version %d (%s, partition %d, entry %s): %s",
                    item.entry.workflow_id,
                    item.entry.version,
                    item.entry.type,
                    self._partition,
                    item.entry.entry_id,
                    item.reason,
                )
        for workflow_id, run in folded.runs.items():
            view = run.view()
            if view is None or view.state.terminal or workflow_id in self._parked:
                self._views.pop(workflow_id, None)  # hardly anything comes after the end of a run
            else:
                self._views[workflow_id] = view
                self._views.move_to_end(workflow_id)
        while len(self._views) > self._limit:
            self._views.popitem(last=False)
