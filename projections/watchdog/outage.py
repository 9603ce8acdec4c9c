"""The outage: a store that can't be asked is told from memory, since the book of notices lies in it.

Invariants: it is told while it lasts, by who had the lease on the book when it began, so by one of several watchdogs. Whoever
was reached is not told again, and a repetition has the same id. When the store answers, the incident goes into the book: what
nobody could be told is told from there, and it is over there like any other. A short outage is none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.errors import LogDiverged, StoreUnavailable
from tailrace.core.notices import Incident, Notice, incident_key
from tailrace.projections.watchdog.delivery import NoticeSender
from tailrace.projections.watchdog.rules import STORE, log_diverged, store_unreachable
from tailrace.projections.watchdog.telling import TellingOptions, notice_of, opened

log = logging.getLogger(__name__)

#: How long a target that was not reached is left alone, in seconds; twice as long each time.
_FIRST_SECONDS: Final = 2.0
_LONGEST_SECONDS: Final = 300.0

#: What the store, or the way to it, does to who asks; a TimeoutError is one that does not answer in time.
OutageError = StoreUnavailable | LogDiverged | TimeoutError


def clock_of_this_machine() -> int:
    """Microseconds since the epoch: the store's own time can't be asked for."""
    return time.time_ns() // 1000


class Outage:
    """What is wrong with the store now, and whom of `senders` that was told to."""

    def __init__(
        self,
        senders: Sequence[NoticeSender],
        options: TellingOptions,
        *,
        now: Callable[[], int] = clock_of_this_machine,
    ) -> None:
        self._senders = senders
        self._options = options
        self._now = now
        self._booked: dict[str, Incident] = {}
        self._stands: dict[str, Incident] = {}
        self._reached: dict[str, set[str]] = {}
        self._seen_at = 0
        self._failures: dict[str, int] = {}
        self._try_at: dict[str, int] = {}

    @property
    def stands(self) -> bool:
        """Whether there is anything that the book does not know yet."""
        return bool(self._stands)

    def remember(self, incidents: Mapping[str, Incident]) -> None:
        """Those in the book: an outage that comes back before it was quiet for long enough is the same one."""
        keys = (incident_key(cause, STORE) for cause in (StoreUnavailable.code, LogDiverged.code))
        self._booked = {key: incidents[key] for key in keys if key in incidents}

    async def seen(self, error: OutageError) -> None:
        """The store failed again. Tells it when it has been so for long enough."""
        now = self._seen_at = self._now()
        problem = str(error) or "it did not answer in time"
        finding = log_diverged(problem) if isinstance(error, LogDiverged) else store_unreachable(problem)
        incident = opened(finding, now)
        if incident.key not in self._stands:
            known = self._booked.get(incident.key)
            if known is not None:
                incident = replace(known, returned=known.returned + (known.quiet_since is not None), quiet_since=None)
            self._stands[incident.key] = incident
        for standing in list(self._stands.values()):
            if not standing.told and self._is_long(standing):
                await self._tell(standing)

    def ended(self, now: int) -> list[Incident]:
        """What belongs into the book, now that the store answers: quiet since `now`, by its time."""
        return [
            replace(incident, quiet_since=now)
            for incident in self._stands.values()
            if incident.told or self._is_long(incident)
        ]

    def forget(self) -> None:
        """It is in the book."""
        self._stands.clear()
        self._reached.clear()

    def _is_long(self, incident: Incident) -> bool:
        return self._seen_at - incident.opened_at >= to_us(self._options.gather_seconds)

    async def _tell(self, incident: Incident) -> None:
        """Send it to those who have not had it and are not to be left alone."""
        reached = self._reached.setdefault(incident.key, set())
        notice = notice_of(replace(incident, told=True), "incident-opened", incident.opened_at)
        now = self._now()
        due = [
            sender
            for sender in self._senders
            if sender.target not in reached and now >= self._try_at.get(sender.target, 0)
        ]
        for sender, problem in zip(due, await asyncio.gather(*(_send(sender, notice) for sender in due)), strict=True):
            if problem is None:
                log.info("%s was told of %s", sender.title, incident.key)
                reached.add(sender.target)
                self._failures.pop(sender.target, None)
            else:
                self._leave_alone(sender, notice, problem)
        if self._senders and all(sender.target in reached for sender in self._senders):
            self._stands[incident.key] = replace(incident, told=True)

    def _leave_alone(self, sender: NoticeSender, notice: Notice, problem: str) -> None:
        failures = self._failures.get(sender.target, 0)
        self._failures[sender.target] = failures + 1
        wait = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(failures, 30))
        self._try_at[sender.target] = self._now() + to_us(wait)
        level = logging.INFO if failures else logging.WARNING
        log.log(level, "notice %s did not reach %s, again in %.0f s: %s", notice.id, sender.title, wait, problem)


async def _send(sender: NoticeSender, notice: Notice) -> str | None:
    try:
        return await sender.send(notice)
    except Exception as error:
        # No receiver, whatever it does, ends a watchdog.
        log.exception("notice %s to %s broke its sender", notice.id, sender.title)
        return f"{type(error).__name__} in its sender"
