"""Values on their way into Postgres, which can't hold all that Python can.

`jsonb` refuses U+0000 and unpaired surrogates, text refuses U+0000. A derived JSON value that can't be held becomes
null (the raw bytes of its event are kept); text gets U+FFFD in the place of what can't be held.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from tailrace.core.clock import to_datetime

#: What encoding raises for values that JSON can't hold.
_UNFIT: Final = (TypeError, ValueError, NotImplementedError, RecursionError, OverflowError, msgspec.MsgspecError)

_encode = msgspec.json.Encoder().encode
_BACKSLASH: Final = ord("\\")
#: An escaped NUL: an odd number of backslashes before `u0000`.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def json_or_none(value: Any) -> bytes | None:
    """JSON that Postgres can hold, or None."""
    try:
        data = _encode(value)
    except _UNFIT:
        return None
    return None if _has_nul(data) else data


def jsonb(value: Any) -> str | None:
    """As `json_or_none`, as text."""
    data = json_or_none(value)
    return None if data is None else data.decode()


def fit_json(value: Any) -> bytes:
    """JSON that Postgres can hold, of the value as it is or made fit."""
    data = json_or_none(value)
    return _encode(cleaned(msgspec.to_builtins(value))) if data is None else data


def _has_nul(data: bytes) -> bool:
    # (Nearly every JSON is without a backslash, and looking for one byte is much the quickest.)
    return _BACKSLASH in data and _NUL.search(data) is not None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the rows that are written. Times are in microseconds since the epoch.

    `verbatim` names the fields that are shown as they are or not at all: null where they can't be held.
    """

    verbatim: ClassVar[frozenset[str]] = frozenset()


def document(rows: Sequence[Row]) -> str:
    """Rows as JSON for `json_to_recordset`, all of which Postgres can hold."""
    try:
        data = _encode(rows)
        if not _has_nul(data):
            return data.decode()
    except _UNFIT:
        pass
    return _encode([{name: _fit(row, name) for name in row.__struct_fields__} for row in rows]).decode()


def _fit(row: Row, name: str) -> Any:
    value = getattr(row, name)
    if value is None or isinstance(value, int | float) or jsonb(value) is not None:
        return value
    return None if name in row.verbatim else cleaned(msgspec.to_builtins(value))


def text(value: str) -> str:
    """Text that Postgres can hold."""
    if "\x00" in value:
        value = value.replace("\x00", "\ufffd")
    if not value.isascii():
        value = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return value


def cleaned(value: Any) -> Any:
    """A builtin value with all its text made fit: for what must be shown, even if not byte for byte."""
    match value:
        case str():
            return text(value)
        case dict():
            return {text(str(key)): cleaned(item) for key, item in value.items()}
        case list() | tuple():
            return [cleaned(item) for item in value]
        case _:
            return value


def time(at_us: int | None) -> datetime | None:
    """An instant in microseconds since the epoch, as Postgres takes it."""
    return None if at_us is None else to_datetime(at_us)


def entry_time(entry_id: str) -> datetime | None:
    """When an entry came into the log, by its id; None when the id doesn't tell."""
    milliseconds = entry_id.partition("-")[0]
    try:
        return to_datetime(int(milliseconds) * 1000)
    except (ValueError, OverflowError):
        return None
