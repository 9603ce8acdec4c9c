"""Time: microseconds since the epoch, as an integer, by the clock of Redis wherever a decision depends on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(seconds: float) -> int:
    """Whole microseconds in `seconds`."""
    return round(seconds * SECOND)


def to_datetime(at_us: int) -> datetime:
    """The instant as an aware datetime, exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=at_us)


def from_datetime(at: datetime) -> int:
    """The instant of an aware datetime, in microseconds since the epoch."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def to_rfc3339(at_us: int | None) -> str | None:
    """`2026-01-02T03:04:05.678901Z`; None stays None."""
    if at_us is None:
        return None
    return to_datetime(at_us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
