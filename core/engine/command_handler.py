"""Commands from people and programs: load, decide, append; on a conflict load and decide again.

A caller whose reply was lost is not left guessing: each append carries a command id that the run remembers, so the handler
asks again and finds the recorded outcome instead of doing it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from tailrace.core.commands import Command, CreateWorkflow
from tailrace.core.engine.plan import plan
from tailrace.core.errors import (
    AlreadyExists,
    NotFound,
    ReadModelUnavailable,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from tailrace.core.events import WorkflowCreated
from tailrace.core.ids import new_command_id
from tailrace.core.store.inputs import carry
from tailrace.core.store.port import Append, Appended, WorkflowStore
from tailrace.core.workflow.history import DecidedEvent, Snapshot, step
from tailrace.core.workflow.state import WorkflowState

#: How often a command is decided again after somebody else was faster.
MAX_CONFLICTS: Final = 20

#: Waits between tries while the store can't be reached, in seconds; after the last one the caller is told.
_RECONNECT_WAITS: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

#: Share of the store's memory over which no new run is accepted.
FULL_MARK: Final = 0.7

#: Finds a run that is no longer in the store: its snapshot folded from the archive, or None.
ArchiveLookup = Callable[[str], Awaitable[Snapshot | None]]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The run after a command. `replayed`: it had been carried out before, for the same request."""

    snapshot: Snapshot
    replayed: bool = False


class CommandHandler:
    """Carries out commands against a store. Stateless: any number of them may run. `command_ids` gives each call its id."""

    def __init__(
        self,
        store: WorkflowStore,
        *,
        archived: ArchiveLookup | None = None,
        command_ids: Callable[[], str] = new_command_id,
    ) -> None:
        self._store = store
        self._archived = archived
        self._command_ids = command_ids
        self._fullness = (-1.0, 0.0)

    async def create(self, command: CreateWorkflow, *, actor: str, traceparent: str = "") -> Outcome:
        """Start a run; the same `workflow_id` and `body_hash` again give the run as it is now.

        Raises `AlreadyExists` for another body, `StoreFull`, `StoreUnavailable`, `NotFound` for the definition.
        """
        try:
            await self._refuse_when_full()
            return await self._create(command, actor, traceparent)
        except StoreFull:
            # A request that was accepted before takes no room.
            snapshot = await self._accepted(command.workflow_id)
            if snapshot is None:
                raise
            return _again(snapshot, command, replayed=True)

    async def _create(self, command: CreateWorkflow, actor: str, traceparent: str) -> Outcome:
        pipeline = await self._store.pipeline(command.definition)
        command_id = self._command_ids()
        for wait in (*_RECONNECT_WAITS, None):
            try:
                now = await self._store.now()
                after, decided = step(
                    pipeline, None, command, now=now, command_id=command_id, actor=actor, traceparent=traceparent
                )
                assert after is not None
                append = plan(pipeline, None, after, decided, traceparents=_same(traceparent, decided))
                (appended,) = await self._store.append([append])
                if appended.outcome == "exists":
                    return await self._existing(command, command_id)
                _raise_refusal(append, appended)
                return Outcome(snapshot=_created(after, decided))
            except StoreUnavailable:
                if wait is None:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def execute(
        self, workflow_id: str, command: Command, *, actor: str, traceparent: str = "", version: int | None = None
    ) -> Snapshot:
        """Carry out a command on a run, and give the run after it.

        With `version` it is decided on that version or not at all (`VersionConflict`). Raises `NotFound`, `CommandRefused`,
        `InvalidInput`, `StoreUnavailable`.
        """
        command_id = self._command_ids()
        waits = list(_RECONNECT_WAITS)
        conflicts = 0
        while True:
            try:
                outcome = await self._try(workflow_id, command, command_id, actor, traceparent, version)
            except StoreUnavailable:
                if not waits:
                    raise
                await asyncio.sleep(waits.pop(0))
                continue
            if isinstance(outcome, Snapshot):
                return outcome
            # Also with `version`: what was faster may be this very command, whose first request arrived late.
            conflicts += 1
            if conflicts > MAX_CONFLICTS:
                raise VersionConflict(workflow_id, version or 0, outcome.version)

    async def _try(
        self,
        workflow_id: str,
        command: Command,
        command_id: str,
        actor: str,
        traceparent: str,
        version: int | None,
    ) -> Snapshot | Appended:
        snapshot = await self._store.load(workflow_id)
        rehydrate = snapshot is None and self._archived is not None
        if rehydrate and self._archived is not None:
            snapshot = await self._archived(workflow_id)
        if snapshot is None:
            raise NotFound("workflow", workflow_id)
        state = snapshot.state
        if state.version_of_command(command_id) is not None:
            return snapshot
        if version is not None and state.version != version:
            raise VersionConflict(workflow_id, version, state.version)
        pipeline = await self._store.pipeline(state.definition)
        now = await self._store.now()
        after, decided = step(
            pipeline, state, command, now=now, command_id=command_id, actor=actor, traceparent=traceparent
        )
        assert after is not None
        if not decided:
            return snapshot
        append = plan(
            pipeline,
            state,
            after,
            decided,
            traceparents=_same(traceparent or state.traceparent, decided),
            rehydrate=rehydrate,
            carried=carry(snapshot.created, snapshot.outputs),
        )
        if rehydrate:
            append = msgspec.structs.replace(append, created=_encoded(snapshot), outputs=dict(snapshot.outputs))
        (appended,) = await self._store.append([append])
        if appended.outcome in {"conflict", "missing", "exists"}:
            return appended
        _raise_refusal(append, appended)
        return msgspec.structs.replace(snapshot, state=after)

    async def _existing(self, command: CreateWorkflow, command_id: str) -> Outcome:
        snapshot = await self._store.load(command.workflow_id)
        if snapshot is None and self._archived is not None:
            snapshot = await self._archived(command.workflow_id)
        if snapshot is None:
            raise StoreUnavailable(f"workflow {command.workflow_id} exists and can't be read now; ask again")
        # Found by our own command id: the first reply was lost, the run was not there before us.
        return _again(snapshot, command, replayed=snapshot.state.version_of_command(command_id) is None)

    async def _accepted(self, workflow_id: str) -> Snapshot | None:
        """The run, if it is there; what the archive holds is not known while it can't be asked."""
        snapshot = await self._store.load(workflow_id)
        if snapshot is None and self._archived is not None:
            with suppress(ReadModelUnavailable):
                snapshot = await self._archived(workflow_id)
        return snapshot

    async def _refuse_when_full(self) -> None:
        """Ask for the fill level at most once a second: it is on the way of every new run."""
        loop_now = asyncio.get_running_loop().time()
        checked_at, fullness = self._fullness
        if loop_now - checked_at > 1.0 or checked_at < 0:
            fullness = await self._store.fullness()
            self._fullness = (loop_now, fullness)
        if fullness >= FULL_MARK:
            raise StoreFull(f"the store is {fullness:.0%} full; new runs are accepted below {FULL_MARK:.0%}")


def _again(snapshot: Snapshot, command: CreateWorkflow, *, replayed: bool) -> Outcome:
    """The run of an earlier request; raises `AlreadyExists` when it was made for another body."""
    if snapshot.created.body_hash != command.body_hash:
        raise AlreadyExists(command.workflow_id)
    return Outcome(snapshot=snapshot, replayed=replayed)


def _same(parent: str, decided: Sequence[DecidedEvent]) -> list[str]:
    return [parent] * len(decided)


def _created(state: WorkflowState, decided: Sequence[DecidedEvent]) -> Snapshot:
    created = decided[0].event
    assert isinstance(created, WorkflowCreated)
    return Snapshot(state=state, created=created, outputs={})


def _encoded(snapshot: Snapshot) -> bytes:
    return msgspec.msgpack.encode(snapshot.created)


def _raise_refusal(append: Append, appended: Appended) -> None:
    if appended.outcome == "full":
        raise StoreFull("the store is full; nothing was written")
    if appended.outcome == "broken":
        raise StoreCorrupt(appended.detail)
    if appended.outcome != "ok":
        raise VersionConflict(append.workflow_id, append.expected_version, appended.version)
