"""Whole runs: the archive read run by run, each folded from its first event to its last, and written as final rows.

Invariant: what is written of a run is its fold up to a mark (a `seq` of its partition), or up to where it is parked. Rows
go into the tables that the session's search path names, by the statements that the projector has. These tables hold
nothing of the runs, and need no keys: a key that is made at the end costs a tenth of one that is kept meanwhile.

Nothing is kept between runs, so memory does not grow with the archive, and whoever knows the last run that was written can
go on behind it. Reading the next stretch, folding this one and writing the one before go on at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import asyncpg
import msgspec

from tailrace.projections import batch
from tailrace.projections.archive import row_to_record, to_entry
from tailrace.projections.batch import Batch, ParkedEntry
from tailrace.projections.fold import Run
from tailrace.projections.port import Projection
from tailrace.projections.session import Session, is_poison
from tailrace.projections.sql import statements

_SQL = statements("whole")
_MAX_VERSION: Final = 2**63 - 1

#: Events of one stretch: so many are in memory, some three times over.
STRETCH: Final = 20_000

#: How long what was cancelled may take to end.
GIVE_UP_SECONDS: Final = 5.0

#: After how many events of folding others get their turn: the server waits for the next statement of the write that goes on.
_TURN: Final = 60

#: Settings of the session that reads: from row to row along the key, whatever the planner knows of the archive.
IN_ORDER: Final[Mapping[str, str]] = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off"}

#: Called with what could not be applied, behind which nothing of its run is written; may raise to end it all.
OnProblem = Callable[[ParkedEntry], None]

#: Called in the transaction that wrote some runs: the id of the last of them, and how many events were read.
Keep = Callable[[str, int], Awaitable[None]]


class _Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A run as far as it could be folded, and the `rows` of its events; `parked` is where it could not."""

    partition: int
    run: Run
    rows: Sequence[asyncpg.Record]
    parked: ParkedEntry | None = None


class _Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Whole runs in order of their ids: up to `last`, `events` in the archive."""

    runs: Sequence[_Folded]
    events: int
    last: str


class WholeRuns:
    """Writes the final rows of all runs of the archive; `reader` and `writer` are sessions of its own."""

    def __init__(
        self,
        reader: Session,
        writer: Session,
        projections: Sequence[Projection],
        *,
        marks: Mapping[int, int],
        parked: Mapping[str, int],
    ) -> None:
        """`marks`: up to which `seq` a partition is folded. `parked`: the version before which a run stops."""
        self._reader = reader
        self._writer = writer
        self._projections = projections
        self._marks = marks
        self._parked = parked

    async def write(self, *, on_problem: OnProblem, after: str = "", keep: Keep | None = None) -> None:
        """Write all runs behind the id `after`. Raises what is in `session.UNAVAILABLE`, and what these functions raise."""
        position, carried = (after, _MAX_VERSION), list[asyncpg.Record]()
        reading = asyncio.create_task(self._read(position))
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                rows = await reading
                done = len(rows) < STRETCH
                if not done:
                    reading = asyncio.create_task(self._read((rows[-1]["workflow_id"], rows[-1]["version"])))
                stretch, carried = await self._fold([*carried, *rows], whole=done)
                for folded in stretch.runs:
                    if folded.parked is not None:
                        on_problem(folded.parked)
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._write(stretch, keep, on_problem))
                if done:
                    await writing
                    return
        finally:
            tasks = [reading] if writing is None else [reading, writing]
            for task in tasks:
                task.cancel()
            # Not for ever: a statement on a server that is gone may not notice. Whoever made the sessions ends them.
            ended, _ = await asyncio.wait(tasks, timeout=GIVE_UP_SECONDS)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # the first one is on its way already

    async def _read(self, position: tuple[str, int]) -> list[asyncpg.Record]:
        return await self._reader.fetch(_SQL["histories"], *position, STRETCH)

    async def _fold(self, rows: Sequence[asyncpg.Record], *, whole: bool) -> tuple[_Stretch, list[asyncpg.Record]]:
        """Fold the runs of these rows. Unless the rows are `whole`, the last run may go on: its rows are given back."""
        end = len(rows)
        if not whole:
            last = rows[-1]["workflow_id"]
            while end and rows[end - 1]["workflow_id"] == last:
                end -= 1
        folded, turn = [], 0
        for workflow_id, group in groupby(rows[:end], key=itemgetter("workflow_id")):
            history = list(group)
            turn += len(history)
            folded.append(self._fold_run(workflow_id, history))
            if turn >= _TURN:
                turn = 0
                await asyncio.sleep(0)
        return _Stretch(runs=folded, events=end, last=rows[end - 1]["workflow_id"] if end else ""), list(rows[end:])

    def _fold_run(self, workflow_id: str, rows: list[asyncpg.Record]) -> _Folded:
        partition = rows[0]["partition"]
        mark, stop = self._marks.get(partition, 0), self._parked.get(workflow_id, _MAX_VERSION)
        while rows and (rows[-1]["seq"] > mark or rows[-1]["version"] >= stop):
            rows.pop()
        run, problem = batch.replay_until_problem(workflow_id, rows, row_to_record)
        parked = None
        if problem is not None:
            parked = ParkedEntry(entry=to_entry(rows[problem.place]), reason=problem.reason, first=True)
        return _Folded(partition=partition, run=run, rows=rows, parked=parked)

    async def _write(self, stretch: _Stretch, keep: Keep | None, on_problem: OnProblem) -> None:
        runs = [folded for folded in stretch.runs if folded.rows]
        try:
            async with self._writer.transaction():
                await self._write_runs(runs)
                if keep is not None and stretch.last:
                    await keep(stretch.last, stretch.events)
        except Exception as error:
            if not is_poison(error):
                raise
        else:
            return
        async with self._writer.transaction():
            await self._write_poisoned(runs, on_problem)
            if keep is not None:
                await keep(stretch.last, stretch.events)

    async def _write_poisoned(self, runs: Sequence[_Folded], on_problem: OnProblem) -> None:
        """Write runs of which one holds a value that can't be written: it is found by halving, and left out."""
        try:
            async with self._writer.transaction():
                await self._write_runs(runs)
        except Exception as error:
            if not is_poison(error):
                raise
            problem = f"{type(error).__name__}: {error}"
        else:
            return
        if len(runs) > 1:
            middle = len(runs) // 2
            await self._write_poisoned(runs[:middle], on_problem)
            await self._write_poisoned(runs[middle:], on_problem)
            return
        on_problem(ParkedEntry(entry=to_entry(runs[0].rows[0]), reason=problem, first=True))

    async def _write_runs(self, runs: Iterable[_Folded]) -> None:
        batches: dict[int, Batch] = {}
        for folded in runs:
            found = batches.setdefault(folded.partition, Batch(folded.partition, (), (), fresh=True))
            found.runs[folded.run.workflow_id] = folded.run
        for found in batches.values():
            for projection in self._projections:
                await projection.apply(self._writer, found)
