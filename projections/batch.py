"""A batch: a stretch of one partition's log, decoded and folded, ready for every projection to write.

Invariant: what can't be decoded or folded never stops a batch. It is parked, with all later events of its run, and the
run keeps the state it had before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from tailrace.core.errors import Undecodable
from tailrace.core.store.port import RawEntry
from tailrace.core.workflow.history import Record
from tailrace.projections.fold import Run, RunView, to_record

T = TypeVar("T")


class ParkedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that no projection applied, and why; `first` when it is where its run stopped."""

    entry: RawEntry
    reason: str
    first: bool


class Batch:
    """`entries` as read, their `records` (None where undecodable), the touched `runs` by id, and what is `parked`.

    `fresh`: the runs have no rows yet, and no key may be there to tell.
    """

    __slots__ = ("entries", "fresh", "parked", "partition", "records", "runs")

    def __init__(
        self, partition: int, entries: Sequence[RawEntry], records: Sequence[Record | None], *, fresh: bool = False
    ) -> None:
        self.partition = partition
        self.fresh = fresh
        self.entries = entries
        self.records = records
        self.runs: dict[str, Run] = {}
        self.parked: list[ParkedEntry] = []


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """Entries with what they decode to: a record, or the reason why not."""

    entries: Sequence[RawEntry]
    records: Sequence[Record | None]
    problems: Mapping[int, str]

    def cut(self, start: int, end: int) -> Decoded:
        """The part from `start` up to (without) `end`."""
        problems = {index - start: problem for index, problem in self.problems.items() if start <= index < end}
        return Decoded(entries=self.entries[start:end], records=self.records[start:end], problems=problems)


def decode(entries: Sequence[RawEntry]) -> Decoded:
    """Decode every entry; `problems` are by index."""
    records: list[Record | None] = []
    problems: dict[int, str] = {}
    for index, entry in enumerate(entries):
        try:
            records.append(to_record(entry))
        except Undecodable as error:
            records.append(None)
            problems[index] = str(error)
        except Exception as error:  # noqa: BLE001  whatever one event does to its decoder, it must not stop the others
            records.append(None)
            problems[index] = f"{entry.type} can't be read: {_name(error)}"
    return Decoded(entries=entries, records=records, problems=problems)


def missing(
    decoded: Decoded, views: Collection[str], parked: Mapping[str, int], condemned: Collection[str]
) -> dict[str, int]:
    """Runs whose earlier events are needed to fold the rest: id to the version the batch begins with."""
    wanted: dict[str, int] = {}
    for entry in decoded.entries:
        if entry.workflow_id in views or entry.workflow_id in wanted:
            continue
        if entry.entry_id not in condemned and not _is_behind(parked, entry):
            wanted[entry.workflow_id] = entry.version
    return {workflow_id: version for workflow_id, version in wanted.items() if version > 1}


def fold(
    partition: int,
    decoded: Decoded,
    views: Mapping[str, RunView],
    parked: Mapping[str, int],
    condemned: Mapping[str, str],
) -> Batch:
    """Fold decoded entries onto the views of their runs.

    `parked` are runs that stand still already, with the version they stopped before; `condemned` are entry ids that must
    be parked, with the reason.
    """
    batch = Batch(partition, decoded.entries, decoded.records)
    stopped: set[str] = set()
    for index, (entry, record) in enumerate(zip(decoded.entries, decoded.records, strict=True)):
        workflow_id = entry.workflow_id
        if (stopped or parked) and (workflow_id in stopped or _is_behind(parked, entry)):
            first = parked.get(workflow_id) == entry.version
            reason = "an earlier event of this run is parked"
            batch.parked.append(ParkedEntry(entry=entry, reason=reason, first=first))
            continue
        run = batch.runs.get(workflow_id)
        if run is None:
            run = Run(workflow_id, views.get(workflow_id))
        problem = condemned.get(entry.entry_id) or _advance(run, record, decoded.problems.get(index, ""))
        if problem:
            stopped.add(workflow_id)
            batch.parked.append(ParkedEntry(entry=entry, reason=problem, first=True))
        else:
            batch.runs[workflow_id] = run
    return batch


def replay(workflow_id: str, entries: Sequence[RawEntry]) -> Run:
    """A run folded from its history's beginning; raises `Undecodable` when that can't be."""
    run, problem = replay_until_problem(workflow_id, entries, to_record)
    if problem is not None:
        raise Undecodable(problem.reason)
    return run


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Where a history could not be applied any further: the place among what was given, and the reason."""

    place: int
    reason: str


def replay_until_problem(
    workflow_id: str, entries: Iterable[T], read: Callable[[T], Record]
) -> tuple[Run, Problem | None]:
    """A run folded from its history's beginning as far as can be. `read` gives the record of an entry, or `Undecodable`."""
    run, place = Run(workflow_id, None), 0
    try:
        for entry in entries:
            run.advance(read(entry))
            place += 1
    except Undecodable as error:
        return run, Problem(place=place, reason=str(error))
    except Exception as error:  # noqa: BLE001  whatever one event does to the fold, it must not stop the others
        return run, Problem(place=place, reason=f"event {place + 1} of {workflow_id} can't be applied: {_name(error)}")
    return run, None


def _is_behind(parked: Mapping[str, int], entry: RawEntry) -> bool:
    """True for what comes at or after the place where a parked run stopped."""
    stop = parked.get(entry.workflow_id)
    return stop is not None and entry.version >= stop


def _advance(run: Run, record: Record | None, problem: str) -> str:
    """Fold a record into its run; gives the reason when that can't be."""
    if record is None:
        return problem
    try:
        run.advance(record)
    except Undecodable as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  whatever one event does to the fold, it must not stop the others
        return f"{record.type} can't be applied: {_name(error)}"
    return ""


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
