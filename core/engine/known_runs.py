"""The runs that an orchestrator knows: states that need not be read again, and what their tasks can be given.

Every append compares the version, so a memory that is wrong costs one conflict, after which it has to be forgotten.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from tailrace.core.errors import StoreCorrupt, Undecodable
from tailrace.core.store.inputs import Carried, carry
from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState

log = logging.getLogger(__name__)

#: How many runs of a partition are remembered.
REMEMBERED: Final = 20_000


class KnownRun(msgspec.Struct, frozen=True):
    """A run at its version, and what its tasks can be given; None when that is too much."""

    state: WorkflowState
    carried: Carried | None


class KnownRuns:
    """The open runs of one partition that were used last."""

    def __init__(self, store: WorkflowStore) -> None:
        self._store = store
        self._runs: OrderedDict[str, KnownRun] = OrderedDict()

    async def load(self, workflow_ids: Iterable[str]) -> dict[str, KnownRun | str]:
        """These runs, remembered or read; the reason for one that can't be read; those not there are left out.

        Ended runs are read each time: they get late reports, but not so many that a place in memory were worth it.
        """
        found: dict[str, KnownRun | str] = {}
        wanted: list[str] = []
        for workflow_id in dict.fromkeys(workflow_ids):
            known = self._runs.get(workflow_id)
            if known is None:
                wanted.append(workflow_id)
            else:
                found[workflow_id] = known
        if not wanted:
            return found
        try:
            read = await self._store.load_all(wanted)
        except (Undecodable, StoreCorrupt):
            # One that can't be read must not stand in the way of its neighbours.
            for workflow_id in wanted:
                one = await self._load_one(workflow_id)
                if one is not None:
                    found[workflow_id] = one
        else:
            found.update((snapshot.state.workflow_id, _known(snapshot)) for snapshot in read if snapshot is not None)
        for workflow_id in wanted:
            run = found.get(workflow_id)
            if isinstance(run, KnownRun):
                self.remember(run)
        return found

    def remember(self, run: KnownRun) -> None:
        """Keep a run as it is after an append, in place of what was known of it."""
        workflow_id = run.state.workflow_id
        if run.state.terminal:
            self._runs.pop(workflow_id, None)
            return
        self._runs[workflow_id] = run
        self._runs.move_to_end(workflow_id)
        while len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)

    def forget(self, workflow_id: str) -> None:
        """It is not as it was thought to be."""
        self._runs.pop(workflow_id, None)

    def forget_all(self) -> None:
        """None of them may be."""
        self._runs.clear()

    async def _load_one(self, workflow_id: str) -> KnownRun | str | None:
        """The run; without its request or an output, which its tasks then miss, its state is enough."""
        try:
            snapshot = await self._store.load(workflow_id)
            return None if snapshot is None else _known(snapshot)
        except (Undecodable, StoreCorrupt):
            try:
                (state,) = await self._store.load_states([workflow_id])
            except (Undecodable, StoreCorrupt) as error:
                log.error("workflow %s can't be read: %s", workflow_id, error)  # noqa: TRY400  # said in one line
                return f"the workflow can't be read: {error}"
            return None if state is None else KnownRun(state, None)


def _known(snapshot: Snapshot) -> KnownRun:
    return KnownRun(snapshot.state, carry(snapshot.created, snapshot.outputs))
