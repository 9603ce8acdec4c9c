"""Cursors of event streams: opaque to clients, so that what is in them may change. Base64url of msgpack.

A cursor names the epoch of the log it was made from; of another epoch its positions mean nothing, and the client gets `gap`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from tailrace.gateway.problems import Refusal

#: Before the first entry of any log.
BEGINNING: Final = "0-0"


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place in one partition's log: the entry and its `seq`."""

    entry_id: str = BEGINNING
    seq: int = 0

    def is_before(self, other: Position) -> bool:
        """Whether the other place is further on, by the order of entry ids."""
        return _parts(self.entry_id) < _parts(other.entry_id)


class RunCursor(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """A place in one run's history: its version, and the entry that made it ("" when it is not known)."""

    epoch: str
    version: int
    entry_id: str = ""


class LogCursor(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """A place in the logs of all partitions."""

    epoch: str
    positions: tuple[Position, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[RunCursor | LogCursor] = msgspec.msgpack.Decoder(RunCursor | LogCursor)


def encode(cursor: RunCursor | LogCursor) -> str:
    """The text that goes to the client."""
    return base64.urlsafe_b64encode(_encoder.encode(cursor)).rstrip(b"=").decode()


def decode_run(text: str) -> RunCursor:
    """A cursor of one run, or a plain version number (of no epoch in particular); raises `Refusal` (400)."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return RunCursor("", int(text))
    cursor = _decode(text)
    if not isinstance(cursor, RunCursor) or cursor.version < 0 or not _is_entry_id(cursor.entry_id or BEGINNING):
        raise _refusal()
    return cursor


def decode_log(text: str, partitions: int) -> LogCursor:
    """A cursor of all runs; raises `Refusal` (400)."""
    cursor = _decode(text)
    if (
        not isinstance(cursor, LogCursor)
        or len(cursor.positions) != partitions
        or not all(_is_entry_id(position.entry_id) for position in cursor.positions)
    ):
        raise _refusal()
    return cursor


def _decode(text: str) -> Any:
    try:
        return _decoder.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise _refusal() from None


def _parts(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _is_entry_id(text: str) -> bool:
    milliseconds, _, number = text.partition("-")
    return text.isascii() and milliseconds.isdigit() and number.isdigit() and len(text) < 42


def _refusal() -> Refusal:
    return Refusal(400, "bad-cursor", "`after` or `Last-Event-ID` is not a cursor that this stream gave")
