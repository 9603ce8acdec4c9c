"""The orchestrator: applies reports and timers of the partitions it owns, one owner per partition at a time.

Reports are applied in stream order from the oldest, several of one run in one append, those of many runs in one round trip.
A report leaves its stream only with the append that decided it, so a crash, a conflict or a lost reply means: it is read
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from tailrace.core.commands import ApplyReport, FireTimer
from tailrace.core.engine.known_runs import KnownRun, KnownRuns
from tailrace.core.engine.plan import plan
from tailrace.core.errors import (
    LogDiverged,
    NotOwner,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    TailraceError,
)
from tailrace.core.partitioning import partition_of
from tailrace.core.store.checks import check_append
from tailrace.core.store.inputs import carry_on
from tailrace.core.store.port import Append, Ownership, ReportEntry, TimerRef, WorkflowStore
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import DecidedEvent, step
from tailrace.core.workflow.policy import Timer
from tailrace.core.workflow.state import WorkflowState

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 1.0
STANDBY_SECONDS: Final = 0.5
TIMER_POLL_SECONDS: Final = 0.5
REPORT_BLOCK_SECONDS: Final = 5.0
BATCH: Final = 256
#: Decisions that are written while the next ones are made.
CHUNK: Final = 32
#: What a decision may end in besides its events: the reports behind it are parked, other runs go on.
UNDECIDABLE: Final = (TailraceError, AssertionError, ArithmeticError, LookupError, TypeError, ValueError)
#: What stops work on a partition until it is over; the others go on.
_STOPS: Final = (StoreUnavailable, StoreFull, StoreCorrupt, LogDiverged)
_FINAL: Final = frozenset({"completed", "failed", "cancelled", "poison"})
_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class Orchestrator:
    """Runs every partition it can own; stands by for the others."""

    def __init__(self, store: WorkflowStore, name: str) -> None:
        self._store = store
        self._name = name
        self.owned: set[int] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            for partition in range(self._store.partitions):
                group.create_task(self._serve(partition))

    async def _serve(self, partition: int) -> None:
        failures = 0
        ownership: Ownership | None = None
        while True:
            try:
                await self._store.check_identity(partition)
                if ownership is not None:
                    # The store was away, and its lease may still be ours: waiting for its end would be a wait for ourselves.
                    ownership = await self._store.acquire(partition, self._name, ownership.epoch)
                if ownership is None:
                    ownership = await self._store.acquire(partition, self._name, None)
                failures = 0
                if ownership is None:
                    await asyncio.sleep(STANDBY_SECONDS)
                    continue
                log.info("partition %d is ours, epoch %d", partition, ownership.epoch)
                await self._own(ownership)
            except NotOwner as error:
                ownership = None
                log.warning("%s", error)
            except _STOPS as error:
                wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                failures += 1
                log.warning("partition %d: %s: %s; trying again in %.1f s", partition, error.code, error, wait)
                await asyncio.sleep(wait)

    async def _own(self, ownership: Ownership) -> None:
        """Work on one partition until the ownership or the store is lost."""
        partition = ownership.partition
        work = PartitionWork(self._store, ownership)
        self.owned.add(partition)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(ownership))
                group.create_task(work.apply_reports_forever())
                group.create_task(work.fire_timers_forever())
        except ExceptionGroup as errors:
            expected, unexpected = errors.split((NotOwner, *_STOPS))
            if unexpected is not None or expected is None:
                raise
            raise _first(expected) from errors
        except asyncio.CancelledError:
            await self._give_up(ownership)
            raise
        finally:
            self.owned.discard(partition)

    async def _keep(self, ownership: Ownership) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            # Reports and timers of a store that was emptied are none: that must not look like a quiet time.
            await self._store.check_identity(ownership.partition)
            if await self._store.acquire(ownership.partition, self._name, ownership.epoch) is None:
                raise NotOwner(ownership.partition)

    async def _give_up(self, ownership: Ownership) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._store.release_ownership(ownership)
        except (TimeoutError, StoreUnavailable):
            log.info("partition %d could not be handed over; its lease runs out", ownership.partition)


class PartitionWork:
    """Reports and timers of one owned partition, with the runs that they are applied to."""

    def __init__(self, store: WorkflowStore, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._partition = ownership.partition
        self._runs = KnownRuns(store)
        # Reports and timers are decided one batch at a time: two batches on one run would only make conflicts.
        self._deciding = asyncio.Lock()
        self._timer_is_set = asyncio.Event()
        self._next_due: int | None = None

    async def apply_reports_forever(self) -> None:
        """Apply reports as they come; those that could not be applied now are read again."""
        while True:
            entries = await self._store.read_reports(self._partition, count=BATCH, block_seconds=REPORT_BLOCK_SECONDS)
            if entries and not await self.apply_reports(entries):
                # Nothing of the batch could be applied: do not spin on it.
                await asyncio.sleep(0.05)

    async def apply_reports(self, entries: Sequence[ReportEntry]) -> int:
        """Apply one batch; gives how many reports left their stream."""
        by_workflow: dict[str, list[ReportEntry]] = {}
        left = 0
        for entry in entries:
            if entry.report is None or not entry.workflow_id:
                left += await self._park(entry, entry.problem or "the report names no workflow")
            else:
                by_workflow.setdefault(entry.workflow_id, []).append(entry)
        if not by_workflow:
            return left
        async with self._deciding:
            runs = await self._runs.load(by_workflow)
            # The time of the read will do for all of them: an event is never earlier than the one before it.
            now = entries[-1].read_at
            planned: list[tuple[Append, KnownRun]] = []
            appending: list[asyncio.Task[int]] = []
            try:
                for workflow_id, group in by_workflow.items():
                    run = runs.get(workflow_id)
                    if not isinstance(run, KnownRun):
                        left += await self._park_all(group, run or "there is no such workflow")
                        continue
                    try:
                        pipeline = await self._store.pipeline(run.state.definition)
                        append, after = self._decide_reports(pipeline, run, group, now)
                        check_append(append)
                        planned.append((append, after))
                    except UNDECIDABLE as error:
                        if isinstance(error, StoreUnavailable | LogDiverged):
                            raise
                        log.exception("reports of %s can't be decided; they are parked", workflow_id)
                        left += await self._park_all(group, f"{type(error).__name__}: {error}")
                    if len(planned) == CHUNK:
                        # While these are written the next ones are decided: they are about other runs.
                        appending.append(asyncio.create_task(self._append(planned)))
                        planned = []
                        await asyncio.sleep(0)
                left += await self._append(planned)
            finally:
                left += await _all(appending)
            return left

    async def fire_timers_forever(self) -> None:
        """Fire what is due; sleep until the next timer, at most one poll."""
        while True:
            delay = TIMER_POLL_SECONDS
            due, next_due = await self._store.due_timers(self._partition, count=BATCH)
            if due and await self.fire_timers(due) and len(due) == BATCH:
                delay = 0.0
            if next_due is not None and delay:
                now = await self._store.now()
                delay = min(delay, max(0.005, (next_due - now) / 1_000_000))
            self._timer_is_set.clear()
            try:
                async with asyncio.timeout(delay):
                    await self._timer_is_set.wait()
            except TimeoutError:
                pass

    async def fire_timers(self, due: Sequence[TimerRef]) -> int:
        """Decide timers that are due; gives how many were dealt with."""
        left = 0
        parsed: list[tuple[TimerRef, Timer]] = []
        for ref in due:
            timer = self._parse(ref)
            if timer is None:
                left += await self._park_timer(ref, "its name can't be read, or is of another partition")
            else:
                parsed.append((ref, timer))
        async with self._deciding:
            runs = await self._runs.load(timer.workflow_id for _, timer in parsed)
            now = await self._store.now()
            planned: list[tuple[Append, KnownRun]] = []
            taken: set[str] = set()
            for ref, timer in parsed:
                # One timer of a run per batch: the next one is decided on the state that this one leaves.
                if timer.workflow_id in taken:
                    continue
                run = runs.get(timer.workflow_id)
                if run is None:
                    log.error("timer %s belongs to no workflow; it is removed", ref.name)
                    await self._store.drop_timer(self._partition, ref)
                    left += 1
                elif isinstance(run, str):
                    left += await self._park_timer(ref, run)
                else:
                    try:
                        planned.append(await self._decide_timer(run, ref, timer, now))
                        taken.add(timer.workflow_id)
                    except UNDECIDABLE as error:
                        if isinstance(error, StoreUnavailable | LogDiverged):
                            raise
                        left += await self._park_timer(ref, f"{type(error).__name__}: {error}")
            return left + await self._append(planned)

    async def _decide_timer(self, run: KnownRun, ref: TimerRef, timer: Timer, now: int) -> tuple[Append, KnownRun]:
        state = run.state
        pipeline = await self._store.pipeline(state.definition)
        command = FireTimer(kind=timer.kind, stage=timer.stage, attempt=timer.attempt, due_at=ref.due_at)
        after, decided = step(pipeline, state, command, now=now, command_id=ref.name, actor="timer")
        assert after is not None
        parents = [state.traceparent] * len(decided)
        append = plan(
            pipeline,
            state,
            after,
            decided,
            traceparents=parents,
            timer=ref,
            ownership=self._ownership,
            carried=run.carried,
        )
        return append, KnownRun(after, carry_on(run.carried, append.outputs))

    def _decide_reports(
        self, pipeline: Pipeline, run: KnownRun, entries: Sequence[ReportEntry], now: int
    ) -> tuple[Append, KnownRun]:
        """Several reports of one run, in their order, as one append."""
        state = run.state
        after: WorkflowState | None = state
        decided: list[DecidedEvent] = []
        parents: list[str] = []
        reported: set[str] = set()
        for entry in entries:
            assert entry.report is not None
            command = ApplyReport(report=entry.report)
            after, events = step(pipeline, after, command, now=now, command_id=entry.entry_id, actor="report")
            decided += events
            parents += [entry.traceparent or state.traceparent] * len(events)
            if entry.report.kind in _FINAL:
                reported.add(entry.report.task_id)
        assert after is not None
        append = plan(
            pipeline,
            state,
            after,
            decided,
            traceparents=parents,
            reported=reported,
            reports=[entry.entry_id for entry in entries],
            ownership=self._ownership,
            carried=run.carried,
        )
        return append, KnownRun(after, carry_on(run.carried, append.outputs))

    async def _append(self, planned: Sequence[tuple[Append, KnownRun]]) -> int:
        if not planned:
            return 0
        try:
            results = await self._store.append([append for append, _ in planned])
        except (StoreUnavailable, LogDiverged):
            self._runs.forget_all()
            raise
        left = 0
        for (append, after), result in zip(planned, results, strict=True):
            if result.outcome == "ok":
                left += max(1, len(append.reports))
                self._runs.remember(after)
                if append.timers_set:
                    self._timer_is_set.set()
            elif result.outcome == "not-owner":
                raise NotOwner(self._partition)
            elif result.outcome == "broken":
                self._runs.forget(append.workflow_id)
                log.error("nothing can be appended to %s: %s", append.workflow_id, result.detail)
                for entry_id in append.reports:
                    left += await self._store.park_report(self._partition, entry_id, result.detail)
                if append.timer is not None:
                    left += await self._park_timer(append.timer, result.detail)
            else:
                # Somebody else moved the run, or dealt with the report: what is remembered of it is old.
                self._runs.forget(append.workflow_id)
                log.debug("append to %s: %s", append.workflow_id, result.outcome)
        return left

    async def _park_all(self, entries: Sequence[ReportEntry], reason: str) -> int:
        return sum([await self._park(entry, reason) for entry in entries])

    def _parse(self, ref: TimerRef) -> Timer | None:
        """What the name says; None for one that can't be read, or that no append of this partition would remove."""
        try:
            timer = Timer.parse(ref.name)
        except ValueError:
            return None
        return timer if partition_of(timer.workflow_id, self._store.partitions) == self._partition else None

    async def _park_timer(self, ref: TimerRef, reason: str) -> int:
        """Out of the way of those behind it. The run it belongs to, if any, gets it anew with its next event or pause."""
        parked = await self._store.park_timer(self._partition, ref, reason)
        if parked:
            log.error("timer %r of partition %d is parked: %s", ref.name, self._partition, reason)
        return int(parked)

    async def _park(self, entry: ReportEntry, reason: str) -> int:
        log.error("report %s of partition %d is parked: %s", entry.entry_id, self._partition, reason)
        return int(await self._store.park_report(self._partition, entry.entry_id, reason))


async def _all(appending: Sequence[asyncio.Task[int]]) -> int:
    """The sum of what these give, when all of them have ended; raises the first error."""
    ended = await asyncio.gather(*appending, return_exceptions=True)
    left = 0
    for result in ended:
        if isinstance(result, BaseException):
            raise result
        left += result
    return left


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, however deep it is."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
