"""Read models built beside those that are read: from the archive, by the same code, into tables of the same names.

Statements name their tables without a schema, so the session's search path decides where rows go. Whoever verifies or
rebuilds makes the tables that are to be filled; nothing here touches those of the schema `tailrace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from tailrace.core.errors import InvalidInput, LogDiverged
from tailrace.projections import archive, checkpoints, parking
from tailrace.projections.archive import Archive
from tailrace.projections.checkpoints import Place
from tailrace.projections.ownership import Tenure
from tailrace.projections.port import Projection
from tailrace.projections.runtime import standard_projections
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.writer import Writer

_SQL = statements("beside")

BATCH: Final = 2000
VIEWS: Final = 20_000

#: How long one statement may take on a large read model.
STATEMENT_SECONDS: Final = 600.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the archived events have been read; `step` is what is done now."""

    done: int
    total: int
    step: str = ""


OnProgress = Callable[[Progress], None]


def rebuildable(name: str | None = None) -> list[Projection]:
    """The projections that can be built from the archive: all, or the one called `name`; raises `InvalidInput`."""
    found = [projection for projection in standard_projections() if projection.name != Archive.name]
    if name is None:
        return found
    names = [projection.name for projection in found]
    if name not in names:
        raise InvalidInput(f"there is no projection {name!r} that can be built again; there are: {', '.join(names)}")
    return [found[names.index(name)]]


def rebuilt_with(name: str | None) -> list[Projection]:
    """As `rebuildable`, with what it counts: the one can't be told from the other while they are built."""
    wanted = {projection.name for projection in rebuildable(name)}
    wanted |= {projection.counts for projection in rebuildable(name)}
    return [projection for projection in rebuildable() if projection.name in wanted]


#: Those that have rows of runs, and those that count such rows.
ROWS: Final = tuple(projection.name for projection in rebuildable() if not projection.counts)
COUNTS: Final = tuple(projection.name for projection in rebuildable() if projection.counts)

#: What must be there beside: the tables of all projections, and those that say how far they are.
TABLES: Final = ("checkpoints", "parked", *(projection.name for projection in rebuildable()))


async def make_table(session: Session, table: str, *, schema: str = "") -> None:
    """Make an empty table like the one that is read, in a schema, or for this transaction; one of rows without its keys."""
    made, end = (f"{schema}.{table}", "") if schema else (f"pg_temp.{table}", " ON COMMIT DROP")
    await session.execute(f"CREATE TABLE {made} (LIKE tailrace.{table} INCLUDING DEFAULTS){end}")
    settings = await session.fetchval(_SQL["settings"], table)
    if settings:
        await session.execute(f"ALTER TABLE {made} SET ({', '.join(settings)})")
    if table in COUNTS:
        # Few rows, added to by every run: they are found by their keys.
        await add_keys(session, table, schema=schema or "pg_temp")


async def add_keys(session: Session, table: str, *, schema: str = "pg_temp") -> None:
    """Give a table beside the constraints of the one that is read, by name, as far as it has not got them."""
    for row in await session.fetch(_SQL["missing_constraints"], table, schema):
        await session.execute(f"ALTER TABLE {schema}.{table} ADD CONSTRAINT {row['conname']} {row['definition']}")


async def archived(session: Session) -> dict[int, int]:
    """How far the archive is: partition to `seq`. Read from the tables that are read, not from those beside."""
    return {row["partition"]: row["seq"] for row in await session.fetch(_SQL["archived"])}


class Replay:
    """Fills the tables beside, partition by partition, from the archive's first event on.

    `parked` beside holds what is parked already: these runs stop where they stopped.
    """

    def __init__(self, session: Session, projections: Sequence[Projection]) -> None:
        self._session = session
        self._projections = projections
        self._writers: dict[int, Writer] = {}
        self._places: dict[int, Place] = {}

    async def to(self, targets: Mapping[int, int], on_progress: OnProgress | None = None) -> None:
        """Go on up to these `seq`s (by partition), which the archive has."""
        total = sum(targets.values())
        for partition, target in targets.items():
            writer = await self._writer(partition)
            while self._places[partition].seq < target:
                await self._step(partition, writer, target)
                if on_progress is not None:
                    on_progress(Progress(done=sum(place.seq for place in self._places.values()), total=total))
            await parking.mark(self._session, list(await parking.parked_runs(self._session, partition)))

    def rewind(self) -> None:
        """Forget what a transaction took back with it: the next `to` goes on where the checkpoints beside are."""
        self._writers.clear()
        self._places.clear()

    async def _step(self, partition: int, writer: Writer, target: int) -> None:
        place = self._places[partition]
        entries = await archive.stretch(self._session, partition, after=place.seq, until=target, count=BATCH)
        if not entries:
            raise LogDiverged(partition, f"the archive holds nothing between {place.seq} and {target}")
        self._places[partition] = await writer.write(self._projections, place, entries)

    async def _writer(self, partition: int) -> Writer:
        if partition not in self._writers:
            names = [projection.name for projection in self._projections]
            await checkpoints.register(self._session, partition, 0, names)
            places = await checkpoints.places(self._session, partition, 0)
            parked = await parking.parked_runs(self._session, partition)
            tenure = Tenure(partition=partition, epoch=0)
            self._places[partition] = min(places.values(), key=lambda place: place.seq)
            self._writers[partition] = Writer(self._session, tenure, parked, views=VIEWS)
        return self._writers[partition]
