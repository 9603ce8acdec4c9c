"""The watchdog: asks why runs are overdue, and records what does not heal itself.

It reads what is past its expectation (no Postgres, no scan of healthy runs), judges it, and appends `WorkflowStalled`, or what
mends it, at the version it observed: whoever else moved the run meanwhile has shown that it moves, so a conflict is dropped
and never tried again. Any number of watchdogs may run: the version lets one of them through. Work per round is bounded, and a
fault that many runs share is one incident in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from tailrace.core.clock import to_us
from tailrace.core.commands import FlagStall
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import (
    CommandRefused,
    LogDiverged,
    NotFound,
    StoreFull,
    StoreUnavailable,
    TailraceError,
    VersionConflict,
)
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.policy import LONGEST_RECHECK_US, RECHECK_US, recheck_us
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.collect import Round
from tailrace.projections.watchdog.findings import Verdict
from tailrace.projections.watchdog.incidents import Incidents
from tailrace.projections.watchdog.motion import Motion
from tailrace.projections.watchdog.repairs import REPAIRS, Repair, Repairs
from tailrace.projections.watchdog.rules import judge
from tailrace.projections.watchdog.suspects import Suspects

log = logging.getLogger(__name__)

_BACKOFF: Final = (0.5, 1.0, 2.0, 5.0)

#: How many runs are flagged or postponed at the same time.
ACTS_AT_ONCE: Final = 12

#: When a run that is overdue and not flagged is looked at again: soon where one look was not enough, later the longer it waits.
LOOK_AGAIN_US: Final = to_us(1)
SHORTEST_WAIT_US: Final = to_us(3)
LONGEST_WAIT_US: Final = to_us(30)


class WatchdogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a watchdog works; times in seconds.

    `poll_seconds` has to stay well below the store's `pulse_seconds`, else the store seems to have been away. After its
    start, and after the store was away, it judges nothing for `settle_seconds`: all others are coming back too. `repairs` are
    what it may mend by itself.
    """

    poll_seconds: float = 0.5
    suspects_seconds: float = 2.0
    settle_seconds: float = 5.0
    runs_per_round: int = 200
    repairs: frozenset[Repair] = REPAIRS


class Watchdog:
    """Watches every partition of a store."""

    def __init__(self, store: WorkflowStore, handler: CommandHandler, options: WatchdogOptions | None = None) -> None:
        self.incidents = Incidents()
        self._store = store
        self._handler = handler
        self._repairs = Repairs(handler, (options or WatchdogOptions()).repairs)
        self._options = options or WatchdogOptions()
        self._motion = Motion()
        self._suspects = Suspects(store, most=self._options.runs_per_round)
        self._suspected_at = 0
        self._settled_at: float | None = None
        self._unreadable: set[str] = set()
        self._missing: set[str] = set()
        self._watching: dict[str, None] = {}
        #: More is overdue than a round looks at: then what is known already waits for longer, so that what is new need not.
        self._behind = False
        self._full = False

    async def run(self) -> None:
        """Watch until cancelled. While the store can't be reached, or is another one: say so once, wait longer, go on."""
        failures = 0
        trouble = ""
        while True:
            wait = self._options.poll_seconds
            try:
                await self.look()
                if failures:
                    log.info(
                        "the store can be reached again"
                        if trouble == StoreUnavailable.code
                        else "the log goes on again"
                    )
                failures, trouble = 0, ""
            except (StoreUnavailable, LogDiverged, TimeoutError) as error:
                code = StoreUnavailable.code if isinstance(error, TimeoutError) else error.code
                if code != trouble:
                    log.warning("%s: nothing is watched: %s", code, str(error) or "no answer in time")
                trouble = code
                wait = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                failures += 1
                self._settled_at = None
            except StoreFull as error:
                self._say_full(error)
                wait = _BACKOFF[-1]
            except Exception:
                # Whatever one run, or what somebody put beside it, does to its reader: a watchdog goes on.
                log.exception("a round was given up")
                wait = _BACKOFF[-1]
            await asyncio.sleep(wait)

    async def look(self) -> int:
        """One round over all partitions; gives how many runs were flagged. Raises `StoreUnavailable`, `LogDiverged`."""
        now = await self._store.now()
        looking = Round(self._store, now, self._motion)
        settled = self._is_settled()
        agents = await self._agents_to_suspect(now) if settled else None
        flagged = 0
        behind = False
        for partition in range(self._store.partitions):
            # Also asked while nothing is judged: it keeps the pulse by which the store knows that it was not away.
            count = self._options.runs_per_round + len(self._unreadable) + len(self._missing)
            await self._store.check_identity(partition)
            overdue = await self._store.overdue(partition, count=count)
            behind = behind or len(overdue) >= count
            if settled:
                # (One look was not enough: the next one need not wait for the next search.)
                suspects = [run for run in self._watching if partition_of(run, self._store.partitions) == partition]
                suspects += [] if agents is None else await self._suspects.find(looking, partition, agents)
                flagged += await self._judge(looking, overdue, suspects)
        self._behind = behind
        self._motion.prune(now)
        self.incidents.say(now)
        return flagged

    def _is_settled(self) -> bool:
        clock = asyncio.get_running_loop().time()
        if self._settled_at is None:
            self._settled_at = clock + self._options.settle_seconds
        return clock >= self._settled_at

    async def _agents_to_suspect(self, now: int) -> Sequence[str] | None:
        """Every agent when it is time to look for suspects, else None."""
        if now - self._suspected_at < to_us(self._options.suspects_seconds):
            return None
        self._suspected_at = now
        return await self._store.agents()

    async def _judge(self, looking: Round, overdue: Sequence[str], suspects: Sequence[str]) -> int:
        late = set(overdue)
        ids = [
            workflow_id for workflow_id in dict.fromkeys([*overdue, *suspects]) if workflow_id not in self._unreadable
        ]
        judged: list[tuple[WorkflowState, Verdict]] = []
        for workflow_id in ids:
            self._watching.pop(workflow_id, None)
        for state in await self._load(ids):
            if state.terminal:
                continue
            facts = await looking.facts(state)
            if looking.down:
                raise StoreUnavailable(f"no answer about: {', '.join(facts.unreachable)}")
            verdict = judge(facts)
            if verdict.diagnosis.cause == "workers-hung" and not facts.unreachable:
                looking.hung.update(
                    (agent.agent, facts.partition)
                    for agent in facts.agents.values()
                    if agent is not None and verdict.scope == f"agent {agent.agent}" and agent.free_slots
                )
            if verdict.watching and state.workflow_id not in late:
                self._watching[state.workflow_id] = None
            judged.append((state, verdict))
        # Several at a time: each is a write that waits for the store's disk, and the disk takes many in one go.
        flagged = 0
        for batch in (judged[start : start + ACTS_AT_ONCE] for start in range(0, len(judged), ACTS_AT_ONCE)):
            acts = (self._act(state, verdict, looking.now, late=state.workflow_id in late) for state, verdict in batch)
            for outcome in await asyncio.gather(*acts, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                flagged += outcome
        return flagged

    async def _load(self, ids: Sequence[str]) -> list[WorkflowState]:
        """The states of these runs. One that can't be read is said once and left alone: it must not hide the others."""
        try:
            states = await self._store.load_states(ids)
            missing = [workflow_id for workflow_id, state in zip(ids, states, strict=True) if state is None]
        except (StoreUnavailable, LogDiverged):
            raise
        except TailraceError as error:
            if len(ids) > 1:
                return [state for workflow_id in ids for state in await self._load([workflow_id])]
            self._unreadable.update(ids)
            _say_diverged(ids[0], str(error))
            return []
        for workflow_id in set(missing) - self._missing:
            _say_diverged(workflow_id, "there is nothing of it")
        # (Looked for again each time: a command of a person may bring a run back from the archive.)
        self._missing = (self._missing - set(ids)) | set(missing)
        return [state for state in states if state is not None]

    async def _act(self, state: WorkflowState, verdict: Verdict, now: int, *, late: bool) -> bool:
        """Record a stall, or say when to look again; True when it was recorded."""
        diagnosis, stall = verdict.diagnosis, state.stall
        if diagnosis.cause == "store-full":
            self._note(verdict, now, flagged=False)
        if not verdict.is_stall:
            await self._postpone(state, now + _wait_us(state, verdict, now), late=late)
            return False
        if await self._repairs.mend(state, verdict):
            return False
        if stall is not None and stall.cause == diagnosis.cause:
            self._note(verdict, now, flagged=False)
            wait = LONGEST_RECHECK_US if self._behind else recheck_us(stall.since, now)
            await self._postpone(state, now + wait, late=late)
            return False
        if stall is not None and now - stall.since < RECHECK_US:
            await self._postpone(state, stall.since + RECHECK_US, late=late)
            return False
        after = await self._flag(state, verdict)
        if after is None:
            return False
        self._note(verdict, now, flagged=True)
        if self._behind:
            await self._postpone(after, now + LONGEST_RECHECK_US, late=True)
        return True

    def _note(self, verdict: Verdict, now: int, *, flagged: bool) -> None:
        self.incidents.seen(verdict, now, flagged=flagged, seldom=self._behind)

    async def _flag(self, state: WorkflowState, verdict: Verdict) -> WorkflowState | None:
        """Record the stall, and give the run after it; None when that was not possible, or not needed any more."""
        diagnosis = verdict.diagnosis
        assert diagnosis.cause is not None
        evidence = diagnosis.evidence
        if diagnosis.secondary:
            evidence = {**evidence, "also": [found.cause for found in diagnosis.secondary]}
        command = FlagStall(
            cause=diagnosis.cause,
            hop=diagnosis.hop,
            summary=diagnosis.summary,
            suggestion=diagnosis.suggestion,
            evidence=evidence,
            scope="" if verdict.scope == f"run {state.workflow_id}" else verdict.scope,
        )
        try:
            after = await self._handler.execute(state.workflow_id, command, actor="watchdog", version=state.version)
        except (VersionConflict, NotFound, CommandRefused):
            return None
        except StoreFull as error:
            self._say_full(error)
            return None
        self._full = False
        return after.state if after.state.version > state.version else None

    def _say_full(self, error: StoreFull) -> None:
        if not self._full:
            log.warning("store-full: stalls can't be recorded: %s", error)
        self._full = True

    async def _postpone(self, state: WorkflowState, expect_at: int, *, late: bool) -> None:
        """Only what is overdue is moved: the expectation of a suspect stays what it is."""
        if late:
            await self._store.postpone(state.workflow_id, version=state.version, expect_at=expect_at)


def _say_diverged(workflow_id: str, problem: str) -> None:
    log.error(
        "log-diverged: run %s is expected to move, and can't be read: %s; try: tailrace why %s",
        workflow_id,
        problem,
        workflow_id,
    )


def _wait_us(state: WorkflowState, verdict: Verdict, now: int) -> int:
    """A run that waits for long in a backlog is looked at less often."""
    if verdict.watching or verdict.diagnosis.cause not in {None, "backlog"}:
        return LOOK_AGAIN_US
    return min(max((now - state.updated_at) // 2, SHORTEST_WAIT_US), LONGEST_WAIT_US)
