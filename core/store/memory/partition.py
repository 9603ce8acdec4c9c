"""One partition in memory: its log, runs, task streams, reports, timers, expectations, owner and pulse."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tailrace.core.clock import to_us
from tailrace.core.codec import decode_report
from tailrace.core.commands import Report
from tailrace.core.errors import Undecodable
from tailrace.core.events import Failure
from tailrace.core.store.memory.streams import EntryId, Pending, Stream, TaskEntry, TaskName, TaskStream, spell
from tailrace.core.store.port import Limits, ReportEntry, TimerRef

#: How many parked reports and timers are kept.
PARKED_LIMIT: Final = 1000


@dataclass(slots=True, kw_only=True)
class LogEntry:
    """An event as it is stored; `data` is the msgpack of `codec.EventData`."""

    seq: int
    workflow_id: str
    version: int
    type: str
    traceparent: str
    data: bytes


@dataclass(slots=True, kw_only=True)
class RawReport:
    """A report as it is stored."""

    workflow_id: str
    data: bytes
    traceparent: str
    task_id: str = ""


@dataclass(slots=True, kw_only=True)
class OpenTaskEntry:
    """Where the entry of an open task is."""

    stream: TaskStream
    entry_id: EntryId


@dataclass(slots=True, kw_only=True)
class Run:
    """A run as it is stored: encoded, so that nobody can change it behind the store's back. Without a state: a tombstone."""

    version: int
    state: bytes
    created: bytes
    outputs: dict[str, bytes] = field(default_factory=dict)
    open_tasks: dict[str, OpenTaskEntry] = field(default_factory=dict)

    @property
    def is_tombstone(self) -> bool:
        """True for what is left of a run that expired: its version."""
        return not self.state


@dataclass(slots=True)
class Owner:
    """The lease on the partition; `epoch` only ever counts up."""

    name: str = ""
    epoch: int = 0
    until_us: int = 0


@dataclass(slots=True)
class Pulse:
    """When the partition was last polled, and until when leases and timers rest. `at_us` is None before the first poll."""

    at_us: int | None = None
    grace_until_us: int = 0


class Partition:
    """The data of one partition. Nothing here awaits: what one method does, it does in one step."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.limits = limits
        self.log: Stream[LogEntry] = Stream()
        self.seq = 0
        self.runs: dict[str, Run] = {}
        self.streams: dict[tuple[str, bool], TaskStream] = {}
        self.reports: Stream[RawReport] = Stream()
        self.timers: dict[str, int] = {}
        self.expectations: dict[str, int] = {}
        self.owner = Owner()
        self.pulse = Pulse()
        self.parked: deque[tuple[RawReport | TimerRef, str, int]] = deque(maxlen=PARKED_LIMIT)

    def stream(self, agent: str, urgent: bool) -> TaskStream:
        """The task stream of an agent, made when it is missing."""
        found = self.streams.get((agent, urgent))
        if found is None:
            found = self.streams[agent, urgent] = TaskStream(agent, urgent=urgent)
        return found

    def make_groups(self, agent: str) -> None:
        """Make the agent's groups from the first entry on; those that are there stay as they are."""
        for urgent in (True, False):
            self.stream(agent, urgent).has_group = True

    def poll(self, now_us: int) -> bool:
        """Note that the store runs; False while leases and timers rest because it was away."""
        if self._was_away(now_us):
            self.pulse.grace_until_us = now_us + to_us(self.limits.lease_seconds)
        self.pulse.at_us = now_us
        return not self.rests(now_us)

    def rests(self, now_us: int) -> bool:
        """True while leases and timers rest."""
        return now_us < self.pulse.grace_until_us

    def _was_away(self, now_us: int) -> bool:
        at_us = self.pulse.at_us
        return at_us is not None and not at_us <= now_us <= at_us + to_us(self.limits.pulse_seconds)

    def add_report(self, report: Report, workflow_id: str, traceparent: str, now_us: int) -> None:
        """Write a report."""
        data = msgspec.msgpack.encode(report)
        raw = RawReport(workflow_id=workflow_id, data=data, traceparent=traceparent, task_id=report.task_id)
        self.reports.add(raw, now_us)

    def tell_lost(self, name: TaskName, pending: Pending, now_us: int) -> None:
        """Report that the entry of a task is gone, though somebody held it."""
        report = Report(
            kind="lost",
            task_id=name.task_id,
            worker=pending.consumer,
            delivery=pending.deliveries,
            message="the entry is gone from its stream",
        )
        self.add_report(report, name.workflow_id, "", now_us)

    def tell_poison(self, task: TaskEntry, pending: Pending, now_us: int) -> None:
        """Report that a task was delivered too often, each time without an end."""
        error = Failure(
            reason="poison",
            message=f"delivered {pending.deliveries} times without an end",
            details={"deliveries": pending.deliveries, "last_worker": pending.consumer},
        )
        report = Report(
            kind="poison",
            task_id=task.message.task_id,
            worker=pending.consumer,
            delivery=pending.deliveries,
            error=error,
        )
        self.add_report(report, task.message.workflow_id, task.traceparent, now_us)

    def tell_stopped(self, task_id: str, workflow_id: str, now_us: int) -> None:
        """Report that nobody works on a closed task: it was never taken, or the lease of its worker ran out."""
        self.add_report(Report(kind="stopped", task_id=task_id), workflow_id, "", now_us)

    def read_report(self, entry_id: EntryId, now_us: int) -> ReportEntry:
        """A waiting report, decoded as far as it can be."""
        raw = self.reports.entries[entry_id]
        report, problem = None, ""
        try:
            report = decode_report(raw.data)
        except Undecodable as error:
            problem = str(error)
        return ReportEntry(
            entry_id=spell(entry_id),
            workflow_id=raw.workflow_id,
            report=report,
            traceparent=raw.traceparent,
            read_at=now_us,
            problem=problem,
        )
