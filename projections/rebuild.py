"""Rebuild: a read model built anew beside the one that is read, and put in its place in one step.

Invariants: readers see the old rows or the new ones, whole. Projectors go on meanwhile; they wait only for the last
stretch and the swap, which are one transaction that holds all checkpoints. Whoever is killed is followed by one who goes on
behind the last stretch that was written. What was replaced is kept, and can be put back.

Four steps: the archive is folded run by run up to where it was at the beginning (`whole`), what came since is replayed as a
projector does (`beside`), the result is tried (`trial`), and the tables are exchanged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Final, TypeVar

import asyncpg
import msgspec

from tailrace.core.errors import ConfigurationError, ReadModelUnavailable, TailraceError, Undecodable
from tailrace.projections import book, kept, ownership
from tailrace.projections.batch import ParkedEntry
from tailrace.projections.beside import (
    BATCH,
    COUNTS,
    ROWS,
    STATEMENT_SECONDS,
    TABLES,
    OnProgress,
    Progress,
    Replay,
    archived,
    rebuildable,
    rebuilt_with,
)
from tailrace.projections.book import Book
from tailrace.projections.refold import refold
from tailrace.projections.session import (
    STAYS,
    UNAVAILABLE,
    Session,
    connect,
    end_with_client,
    is_poison,
    unavailable,
)
from tailrace.projections.sql import statements
from tailrace.projections.trial import check_beside
from tailrace.projections.whole import IN_ORDER, WholeRuns

_SQL = statements("beside")
_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Tables in the order in which they get their indexes: those that take longest first.
INDEXED: Final = ("stages", "tasks", *(table for table in TABLES if table not in {"stages", "tasks"}))

#: How often the swap is tried against readers and projectors that hold their locks.
SWAP_ATTEMPTS: Final = 5

#: How long to wait for another rebuild: that of a process that was killed ends as soon as the server notices.
LOCK_SECONDS: Final = 3.0


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild did: the number of `rows` of each projection, and how many of them `differed` from those before.

    `resumed`: it went on with what another one had left.
    """

    rows: dict[str, int]
    differed: dict[str, int]
    resumed: bool


async def rebuild(
    url: str, name: str | None = None, *, build: str = "", on_progress: OnProgress | None = None
) -> Rebuilt:
    """Build all projections, or the one called `name`, from the archive.

    `build` is the code that folds: what another code has left is not gone on with. Raises `InvalidInput` for a projection
    that is not there, `ConfigurationError` when it can't be done as things are (another rebuild, an event that this code
    can't apply), `ReadModelUnavailable`.
    """
    names = [projection.name for projection in rebuilt_with(name)]

    async def work(session: Session) -> Rebuilt:
        try:
            return await _rebuild(url, session, names, build, on_progress or _ignore)
        except TailraceError as error:
            if not error.retryable:  # what is there can't be gone on with
                await book.discard(session)
            raise

    return await _alone(url, "tailrace_next, tailrace", work)


async def roll_back(url: str, name: str | None = None) -> dict[str, dict[int, int]]:
    """Put back what the last rebuild of all projections, or of the one called `name`, has replaced.

    Gives by projection and partition the `seq` from which projectors bring it up to date. What is replaced now is kept in
    its turn. Raises `InvalidInput`, `ConfigurationError` when nothing is kept that fits, `ReadModelUnavailable`.
    """
    wanted = [projection.name for projection in rebuildable(name)]

    async def work(session: Session) -> dict[str, dict[int, int]]:
        found = await kept.names_kept(session)
        names = [item for item in wanted if item in found]
        if not names:
            raise ConfigurationError(
                f"nothing is kept of {name or 'any projection'}: it was not rebuilt, or it was dropped"
            )

        async def exchange() -> dict[str, dict[int, int]]:
            await session.execute(_SQL["freeze"])
            # What counts runs can't be told where some of them stopped then: it stays as it is, which is right.
            back = [item for item in names if item in ROWS or not await kept.stops_moved(session, item)]
            places = {item: await kept.put_back(session, item) for item in back}
            await ownership.release_all(session)
            return places

        return await _in_place(session, exchange)

    return await _alone(url, "tailrace", work)


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """What rebuilds have left: the projections that can be put back, and the share of one that was not finished.

    `state`: `none`, `running`, or `interrupted`, when it goes on as soon as it is called again.
    """

    kept: list[str]
    state: str = "none"
    names: list[str] = []
    done: int = 0
    total: int = 0


async def find_traces(url: str) -> Traces:
    """What rebuilds have left. Raises `ReadModelUnavailable`."""
    try:
        session = await connect(url, "tailrace status")
        try:
            names, left = await kept.names_kept(session), await book.load(session)
            if left is None:
                return Traces(kept=names)
            state = "interrupted" if await session.fetchval(_SQL["lock"]) else "running"
            return Traces(kept=names, state=state, names=left.names, done=left.done, total=left.total)
        finally:
            session.terminate()
    except UNAVAILABLE as error:
        raise unavailable(error) from error


async def discard(url: str) -> Traces:
    """Drop what rebuilds have replaced, and what one that was interrupted has built; gives what there was.

    Raises `ConfigurationError` while one is under way, `ReadModelUnavailable`.
    """
    found = await find_traces(url)

    async def work(session: Session) -> None:
        await kept.discard(session)
        await book.discard(session)

    await _alone(url, "tailrace", work)
    return found


async def _alone(url: str, search_path: str, work: Callable[[Session], Awaitable[T]]) -> T:
    """Do the work on a session that holds the lock of rebuilds."""
    try:
        session = await connect(
            url, "tailrace rebuild", statement_seconds=STATEMENT_SECONDS, search_path=search_path, more=STAYS
        )
        try:
            await end_with_client(session)
            until = time.monotonic() + LOCK_SECONDS
            while not await session.fetchval(_SQL["lock"]):
                if time.monotonic() > until:
                    raise ConfigurationError("a rebuild is under way already")
                await asyncio.sleep(0.1)
            return await work(session)
        finally:
            session.terminate()
    except UNAVAILABLE as error:
        raise unavailable(error) from error


async def _rebuild(url: str, session: Session, names: Sequence[str], build: str, on_progress: OnProgress) -> Rebuilt:
    begun = await book.open_book(session, names, build)
    if not begun.copied:
        await _copy(url, session, begun, on_progress)
    on_progress(Progress(done=begun.total, total=begun.total, step="indexes"))
    await _add_indexes(url, session)
    replay = Replay(session, [projection for projection in rebuildable() if projection.name in names])
    targets = await book.marks(session)
    while True:
        await replay.to(targets, on_progress)
        done, targets = targets, await archived(session)
        if sum(targets.values()) - sum(done.values()) <= BATCH:
            break
    on_progress(Progress(done=sum(done.values()), total=sum(targets.values()), step="comparing"))
    differed = await check_beside(session, names)
    await kept.prepare(session)

    async def exchange() -> tuple[dict[str, int], dict[str, int]]:
        # What a replay wrote in a transaction that was rolled back is gone with it.
        replay.rewind()
        swapped = await _exchange(session, replay, begun, on_progress)
        # In the same step: a book without its tables would be gone on with.
        await book.discard(session)
        return swapped

    rows, counts_differed = await _in_place(session, exchange)
    return Rebuilt(rows=rows, differed={**differed, **counts_differed}, resumed=begun.done > 0)


async def _copy(url: str, session: Session, begun: Book, on_progress: OnProgress) -> None:
    """Write all runs as they were when the rebuild began, behind those that are there."""
    done = begun.done

    async def keep(after_id: str, events: int) -> None:
        nonlocal done
        await book.keep(session, after_id, events)
        done += events
        on_progress(Progress(done=min(done, begun.total), total=begun.total))

    reader = await connect(url, "tailrace rebuild reader", statement_seconds=STATEMENT_SECONDS, more=IN_ORDER)
    try:
        runs = WholeRuns(
            reader,
            session,
            [projection for projection in rebuildable() if projection.name in begun.names],
            marks=await book.marks(session),
            parked=await book.stops(session),
        )
        on_progress(Progress(done=min(done, begun.total), total=begun.total))
        await runs.write(after=begun.after_id, keep=keep, on_problem=_refuse)
    finally:
        reader.terminate()
    await book.keep_copied(session)


async def _add_indexes(url: str, session: Session) -> None:
    """Keys and indexes of all tables, two tables at a time: this process has nothing else to do meanwhile."""
    beside = await connect(url, "tailrace rebuild indexes", statement_seconds=STATEMENT_SECONDS, more=STAYS)
    tables = iter(INDEXED)

    async def add(on: Session) -> None:
        for table in tables:
            await book.add_indexes(on, table)

    try:
        await end_with_client(beside)
        async with asyncio.TaskGroup() as adding:
            adding.create_task(add(session))
            adding.create_task(add(beside))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        beside.terminate()


def _refuse(problem: ParkedEntry) -> None:
    """Code that can't apply what older code could must not take the place of its rows."""
    raise _impossible(problem.entry.workflow_id, problem.reason)


def _impossible(workflow_id: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"run {workflow_id} can't be rebuilt by this code, nothing was changed: {reason}")


async def _in_place(session: Session, exchange: Callable[[], Awaitable[T]]) -> T:
    """Exchange tables in one transaction, tried again while somebody else is at them."""
    for attempt in range(SWAP_ATTEMPTS):
        try:
            async with session.transaction():
                await session.execute("SET LOCAL lock_timeout = '2s'")
                await session.execute("SET LOCAL synchronous_commit = on")
                return await exchange()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            _log.info("the read model is in use; swapping again (%d)", attempt + 1)
            await asyncio.sleep(0.2 * (attempt + 1))
    raise ReadModelUnavailable("the read model is in use, so that it could not be replaced; try again")


async def _exchange(
    session: Session, replay: Replay, begun: Book, on_progress: OnProgress
) -> tuple[dict[str, int], dict[str, int]]:
    """Hold all checkpoints, apply what came last, and put the new tables in the place of the old ones.

    Gives the number of rows of each, and how many of those that count differ: now both are of one moment.
    """
    await session.execute(_SQL["freeze"])
    if not await book.fits(session, begun):
        raise ConfigurationError(
            "the history or the tables were changed meanwhile, nothing was replaced: rebuild again"
        )
    await _follow_parking(session, begun.names)
    await replay.to(await archived(session), on_progress)
    rows = {name: await session.fetchval(_SQL[f"count_{name}"]) for name in begun.names}
    differed = {}
    for name in begun.names:
        if name in COUNTS:
            found = await session.fetch(_SQL[f"compare_{name}"])
            differed[name] = found[0]["differ"] if found else 0
    for name in begun.names:
        for grant in await session.fetch(_SQL["grants"], name):
            await session.execute(grant["statement"])
        await kept.keep(session, name)
        await session.execute(f"ALTER TABLE tailrace_next.{name} SET SCHEMA tailrace")
        await session.execute(
            "UPDATE tailrace.checkpoints AS c SET position = a.position, seq = a.seq"
            " FROM tailrace.checkpoints AS a"
            " WHERE c.projection = $1 AND a.projection = 'archive' AND a.partition = c.partition",
            name,
        )
    return rows, differed


async def _follow_parking(session: Session, names: Sequence[str]) -> None:
    """Let runs be parked beside where they are parked now: some were redriven since, or stopped."""
    moved = await session.fetch(_SQL["moved_stops"])
    if not moved:
        return
    runs = [row["workflow_id"] for row in moved]
    await session.execute(_SQL["forget_parked"], runs)
    await session.execute(_SQL["copy_parked"], runs)
    places = await book.marks(session)
    projections = [projection for projection in rebuildable() if projection.name in names]
    for partition, rows in groupby(moved, key=lambda row: row["partition"]):
        for row in rows:
            try:
                async with session.transaction():
                    await refold(session, partition, [row["workflow_id"]], projections, until=places[partition])
            except Exception as error:
                if not (isinstance(error, Undecodable) or is_poison(error)):
                    raise
                raise _impossible(row["workflow_id"], str(error)) from error


def _ignore(progress: Progress) -> None:
    """Nobody looks."""
