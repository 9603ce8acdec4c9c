"""The book of a rebuild: what is built in the schema `tailrace_next`, from where, and how far it is.

Invariant: the book moves in the transaction that writes the rows, so whoever finds it goes on behind the last run that is
there. It is good only for the code, the tables and the history that it was begun with; else the rebuild begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.projections.beside import TABLES, add_keys, make_table
from tailrace.projections.session import Session
from tailrace.projections.sql import statements

_SQL = statements("book")


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild of `names` by the code `build`: runs up to `after_id` are written, `done` of `total` events.

    `copied`: all runs are. `migration` and `abandoned` (how many events were set aside) tell whether it still fits.
    """

    names: list[str]
    build: str
    migration: int
    abandoned: int
    total: int
    done: int
    after_id: str
    copied: bool


async def open_book(session: Session, names: Sequence[str], build: str) -> Book:
    """The book that was left, when it is of the same rebuild; else a new one, with empty tables."""
    found = await load(session)
    if found is not None and found.names == list(names) and found.build == build and await fits(session, found):
        return found
    # Where the archive is and what is parked have to be of one moment.
    async with session.transaction(isolation="repeatable_read"):
        await session.execute("SET LOCAL synchronous_commit = on")
        await discard(session)
        await session.execute("CREATE SCHEMA tailrace_next")
        await session.execute(_SQL["table"])
        await session.execute(_SQL["begin"], list(names), build)
        for table in TABLES:
            await make_table(session, table, schema="tailrace_next")
        await session.execute(_SQL["marks"], list(names))
        await session.execute(_SQL["parked"])
    begun = await load(session)
    assert begun is not None
    return begun


async def fits(session: Session, book: Book) -> bool:
    """Whether tables and history are still those that the rebuild was begun with."""
    row = await session.fetchrow(_SQL["now"])
    assert row is not None
    return bool(row["migration"] == book.migration and row["abandoned"] == book.abandoned)


async def marks(session: Session) -> dict[int, int]:
    """Up to which `seq` each partition is folded."""
    return {row["partition"]: row["seq"] for row in await session.fetch(_SQL["load_marks"])}


async def stops(session: Session) -> dict[str, int]:
    """Runs that were parked when the rebuild began, and the version each stops before."""
    return {row["workflow_id"]: row["version"] for row in await session.fetch(_SQL["stops"])}


async def keep(session: Session, after_id: str, events: int) -> None:
    """Write down that all runs up to an id are there, which took so many events more."""
    await session.execute(_SQL["keep"], after_id, events)


async def keep_copied(session: Session) -> None:
    """Write down that all runs are there."""
    await session.execute(_SQL["copied"])


async def add_indexes(session: Session, table: str) -> None:
    """Make the keys and indexes that the table that is read has and the one beside has not yet, and let it be analyzed."""
    await add_keys(session, table, schema="tailrace_next")
    for row in await session.fetch(_SQL["missing_indexes"], table):
        await session.execute(row["definition"].replace(f" ON tailrace.{table} ", f" ON tailrace_next.{table} ", 1))
    await session.execute(f"ANALYZE tailrace_next.{table}")


async def discard(session: Session) -> None:
    """Drop what was built."""
    await session.execute("DROP SCHEMA IF EXISTS tailrace_next CASCADE")


async def load(session: Session) -> Book | None:
    """The book that is there, of whatever rebuild; None without any."""
    if not await session.fetchval(_SQL["exists"]):
        return None
    row = await session.fetchrow(_SQL["load"])
    return None if row is None else msgspec.convert(dict(row), Book)
