"""`archive`: every event, byte for byte. The log may be trimmed because this holds what was in it.

It never needs an event to be decodable: `data` is derived from it where that is possible, and null where not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Final

import asyncpg

from tailrace.core.clock import from_datetime
from tailrace.core.codec import open_event
from tailrace.core.store.port import RawEntry
from tailrace.core.workflow.history import Record
from tailrace.projections.batch import Batch
from tailrace.projections.binary import bytes_field, copy, instant_field, jsonb_field, text_field, word
from tailrace.projections.fold import to_record
from tailrace.projections.session import Session
from tailrace.projections.sql import statements
from tailrace.projections.values import entry_time, jsonb, time

_SQL = statements("archive")
_COLUMNS: Final = ("partition", "seq", "version", "entry_id", "workflow_id", "type", "traceparent", "at", "data", "raw")
_COUNT: Final = len(_COLUMNS)
_numbers = struct.Struct(">h ii iq iq").pack


class Archive:
    """The table `events`."""

    name: Final = "archive"
    counts: Final = ""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Copy the batch's entries in, parked ones too."""
        rows = starmap(_row, zip(batch.entries, batch.records, strict=True))
        await copy(session, "events", _COLUMNS, rows, schema="tailrace")

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Refuse: the archive is the one thing that can't be built again once the log was trimmed."""
        raise NotImplementedError("the archive can't be rebuilt")


async def earlier(session: Session, wanted: Mapping[str, int]) -> dict[str, list[RawEntry]]:
    """The archived history of runs, each up to (without) the version given, in order."""
    rows = await session.fetch(_SQL["earlier"], list(wanted), list(wanted.values()))
    found: dict[str, list[RawEntry]] = {}
    for row in rows:
        found.setdefault(row["workflow_id"], []).append(to_entry(row))
    return found


async def stretch(session: Session, partition: int, *, after: int, until: int, count: int) -> list[RawEntry]:
    """Archived entries of a partition with a `seq` over `after`, up to `until`, in order."""
    return [to_entry(row) for row in await session.fetch(_SQL["stretch"], partition, after, until, count)]


async def derive(session: Session, entries: Sequence[RawEntry]) -> None:
    """Derive again what could not be derived from events when they were archived; raises `Undecodable`."""
    records = [to_record(entry) for entry in entries]
    rows = [(record.workflow_id, record.version, time(record.at), jsonb(record.event)) for record in records]
    await session.execute(_SQL["derive"], *zip(*rows, strict=True))


def to_entry(row: asyncpg.Record) -> RawEntry:
    """The log entry that a row of `events` was made from."""
    return RawEntry(
        partition=row["partition"],
        entry_id=row["entry_id"],
        seq=row["seq"],
        workflow_id=row["workflow_id"],
        version=row["version"],
        type=row["type"],
        traceparent=row["traceparent"],
        data=row["raw"],
    )


def row_to_record(row: asyncpg.Record) -> Record:
    """The record of the log entry that a row of `events` was made from; raises `Undecodable`."""
    partition, entry_id, seq, workflow_id, version, kind, traceparent, raw = row
    data, event = open_event(kind, raw)
    return Record(
        partition=partition,
        entry_id=entry_id,
        seq=seq,
        workflow_id=workflow_id,
        version=version,
        type=kind,
        at=data.at,
        event=event,
        command=data.command,
        traceparent=traceparent,
    )


def _row(entry: RawEntry, record: Record | None) -> bytes:
    at: int | None
    if record is None:
        made = entry_time(entry.entry_id)
        at, event = None if made is None else from_datetime(made), None
    else:
        at, event = record.at, record.event
    return b"".join(
        (
            _numbers(_COUNT, 4, entry.partition, 8, entry.seq, 8, entry.version),
            text_field(entry.entry_id),
            word(entry.workflow_id),
            word(entry.type),
            text_field(entry.traceparent),
            instant_field(at),
            jsonb_field(event),
            bytes_field(entry.data),
        )
    )
