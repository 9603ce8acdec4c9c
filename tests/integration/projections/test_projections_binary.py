"""Rows that are copied are those that JSON gives, whatever is in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from tailrace.core.clock import to_datetime
from tailrace.core.events import Failure
from tailrace.projections.binary import (
    bytes_field,
    copy,
    finite,
    fit_jsonb_field,
    instant,
    instant_field,
    integer_field,
    jsonb_field,
    optional_word,
    text_field,
)
from tailrace.projections.values import Row, document
from tests.integration.projections.support import Database

COLUMNS = ("name", "word", "number", "at", "shown", "as_is")


class Odd(Row, frozen=True, kw_only=True):
    """A row of all kinds of columns."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"as_is"})

    name: str
    word: str | None
    number: int | None
    at: int | None
    shown: Failure | None
    as_is: Any


ODD = [
    Odd(name="plain", word="w", number=-1, at=1_795_948_562_640_612, shown=None, as_is={"n": [1, 2.5, None]}),
    Odd(name="päx 🚀", word=None, number=None, at=None, shown=Failure(reason="a", message="b"), as_is=None),
    Odd(name="a \x00 b", word="\x00", number=2**31 - 1, at=-1, shown=Failure(reason="a \x00"), as_is="a\\u0000"),
    Odd(name="lone \ud800", word="", number=0, at=0, shown=Failure(reason="r", details={"\x00": "\x00"}), as_is="\\"),
]


def copied(row: Odd) -> bytes:
    """A row as it is copied."""
    fields = (
        text_field(row.name),
        optional_word(row.word),
        integer_field(row.number),
        instant_field(row.at),
        fit_jsonb_field(row.shown),
        jsonb_field(row.as_is),
    )
    return struct.pack(">h", len(COLUMNS)) + b"".join(fields)


@pytest.fixture(autouse=True)
async def table(db: Database) -> None:
    """An empty one."""
    await db.execute(
        "CREATE TABLE odd (name text, word text, number integer, at timestamptz, shown jsonb, as_is jsonb, raw bytea)"
    )


async def test_a_copied_row_is_the_one_that_json_gives(db: Database) -> None:
    """Also where a value can't be held as it is."""
    await copy(db.connection, "odd", COLUMNS, map(copied, ODD))
    names = ", ".join(COLUMNS)
    found = await db.rows(f"SELECT {names} FROM odd")
    wanted = await db.rows(
        "SELECT name, word, number, timestamptz 'epoch' + at * interval '1 microsecond' AS at, shown, as_is"
        " FROM json_to_recordset($1) AS n (name text, word text, number integer, at bigint, shown jsonb, as_is jsonb)",
        document(ODD),
    )
    assert found == wanted
    assert [row["at"] for row in found if row["at"]] == [to_datetime(row.at) for row in ODD if row.at is not None]


async def test_what_can_not_be_held_is_null(db: Database) -> None:
    """A value that is shown verbatim or not at all; bytes are as they are."""
    row = struct.pack(">h", 2) + jsonb_field({"nul": "\x00"}) + bytes_field(b"\x00\xff")
    await copy(db.connection, "odd", ("as_is", "raw"), [row], schema="public")
    assert await db.rows("SELECT as_is, raw FROM odd") == [{"as_is": None, "raw": b"\x00\xff"}]


async def test_a_number_out_of_range_is_refused(db: Database) -> None:
    """As an error of the value, which parks its run; nothing is written."""

    def rows() -> Iterator[bytes]:
        yield struct.pack(">h", 1) + integer_field(1)
        yield struct.pack(">h", 1) + integer_field(2**31)

    with pytest.raises(OverflowError, match="out of range"):
        await copy(db.connection, "odd", ("number",), rows())
    assert await db.value("SELECT count(*) FROM odd") == 0


def test_values_that_no_reader_can_hold_are_refused() -> None:
    """An instant that is no datetime, a number that is no JSON."""
    for at in (253_402_300_800_000_000, -62_135_596_800_000_001):
        with pytest.raises(OverflowError):
            instant(at)
    with pytest.raises(ValueError, match="finite"):
        finite(float("nan"))
