"""Replies of Redis as they come over the wire (RESP2), read in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Fields = dict[bytes, bytes]


def pairs(flat: Sequence[bytes] | None) -> Fields:
    """A flat list of names and values as a dict."""
    items = iter(flat or ())
    return dict(zip(items, items, strict=True))


def entries(reply: Any) -> list[tuple[str, Fields]]:
    """Stream entries, as XRANGE gives them; a deleted one has no fields."""
    return [(entry_id.decode(), pairs(fields)) for entry_id, fields in reply or ()]


def stream_entries(reply: Any) -> list[tuple[str, Fields]]:
    """The entries of an XREAD of one stream."""
    return entries(flat_entries(reply))


def flat_entries(reply: Any) -> list[tuple[bytes, list[bytes]]]:
    """The entries of an XREAD of one stream as they come, with names and values in one list."""
    return reply[0][1] if reply else []


def names(reply: Any) -> list[str]:
    """Members of a set. One that nobody of ours put there may be any bytes: it must not hide those beside it."""
    return [name.decode(errors="replace") for name in reply or ()]


def microseconds(reply: Any) -> int:
    """TIME, in microseconds since the epoch."""
    return int(reply[0]) * 1_000_000 + int(reply[1])


def info(reply: bytes) -> dict[str, str]:
    """The lines of INFO."""
    lines = (line for line in reply.decode().splitlines() if ":" in line)
    return dict(line.split(":", 1) for line in lines)
