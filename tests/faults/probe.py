"""Watches what the watchdog makes of one case: the first cause that is recorded or given, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence

from tailrace.core.clock import SECOND, to_us
from tailrace.projections.watchdog import Diagnosis, diagnose
from tests.faults.case import Case
from tests.faults.result import Outcome
from tests.faults.site import Flag, Site
from tests.support.waiting import eventually

#: How long a fault may stay without a word before it counts as not found.
PATIENCE_SECONDS = 40.0

Explain = Callable[[str], Awaitable[Diagnosis]]


class Probe:
    """What was found out about a case. `outcome` is filled in by one of the three ways to look."""

    def __init__(self, case: Case) -> None:
        self.outcome = Outcome(name=case.name, way=case.way, expected=case.cause)

    async def flagged(self, site: Site, workflow_id: str, due_at: int, *, before: Collection[str] = ()) -> None:
        """Wait for the first stall of a run. It is due at `due_at` by the store's clock.

        `before` are causes that are as true at an earlier stage of the same fault.
        """

        async def found() -> list[Flag]:
            return [flag for flag in await site.flags(workflow_id) if flag.event.cause not in before]

        try:
            (flag, *_) = await eventually(
                found, PATIENCE_SECONDS + max(0.0, (due_at - await site.store.now()) / SECOND)
            )
        except AssertionError:
            said = await diagnose(site.store, workflow_id)
            self.outcome.detail = f"nothing was recorded; `why`: {said.cause}: {said.summary}"
            return
        self.outcome.found = flag.event.cause
        self.outcome.seconds = round((flag.at - due_at) / SECOND, 2)
        self.outcome.suggestion = flag.event.suggestion
        self.outcome.detail = flag.event.summary

    async def explained(
        self, site: Site, workflow_id: str, *, explain: Explain | None = None, log: bool = True
    ) -> Diagnosis | None:
        """Wait for the first cause that `why` gives from now on; nothing may have been recorded by then.

        Without `log` that is not looked at: there is none any more.
        """
        began = time.monotonic()
        ask = explain or (lambda run: diagnose(site.store, run))

        async def found() -> Diagnosis | None:
            said = await ask(workflow_id)
            return said if said.cause is not None else None

        try:
            said = await eventually(found, PATIENCE_SECONDS)
        except AssertionError:
            self.outcome.detail = f"`why` names no cause: {(await ask(workflow_id)).summary}"
            return None
        assert said is not None
        self.outcome.found = said.cause
        self.outcome.seconds = round(time.monotonic() - began, 2)
        self.outcome.suggestion = said.suggestion
        self.outcome.detail = said.summary
        if log:
            await self._unflagged(site, [workflow_id])
        return said

    async def unflagged(self, site: Site, workflow_ids: Sequence[str], *, still_seconds: float = 0.0) -> None:
        """Nothing was recorded of these runs up to now, nor is it while the store's clock moves on by `still_seconds`."""
        until = await site.store.now() + to_us(still_seconds)

        async def over() -> bool:
            return not await self._unflagged(site, workflow_ids) or await site.store.now() >= until

        await eventually(over, PATIENCE_SECONDS + still_seconds)

    async def _unflagged(self, site: Site, workflow_ids: Sequence[str]) -> bool:
        for workflow_id in workflow_ids:
            for flag in await site.flags(workflow_id):
                self.outcome.found = flag.event.cause
                self.outcome.detail = f"{workflow_id} was flagged: {flag.event.summary}"
                return False
        return True
