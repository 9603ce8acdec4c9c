"""Delivery: what is to be told goes to its target, again and again for a bounded time, at least once.

A notice is claimed in the store before it is sent and taken off afterwards: whoever is killed in between leaves it to the next
one, when the claim has run out. The target sees the same id again. While a target fails, it is left alone for longer and longer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.errors import StoreUnavailable
from tailrace.core.notices import Notice, shortened
from tailrace.core.store.port import ClaimedNotice, NoticeBook, WorkflowStore

log = logging.getLogger(__name__)

#: How much longer a claim holds than a sender may take, in seconds.
_MARGIN_SECONDS: Final = 5.0
_TROUBLE_SECONDS: Final = 5.0
_PROBLEM_LIMIT: Final = 300


class NoticeSender(Protocol):
    """A way out of here. `target` names it in the store, stable and without secrets; `title` is for people."""

    @property
    def target(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def timeout_seconds(self) -> float: ...

    async def send(self, notice: Notice) -> str | None:
        """Send it, within `timeout_seconds`; None when it has arrived, else what was wrong, without secrets."""


class DeliveryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. After a failure a target is left alone for `first_seconds`, then twice as long each time up to
    `longest_seconds`, less a random part. A notice is given up `give_up_seconds` after what it tells.
    """

    poll_seconds: float = 1.0
    first_seconds: float = 1.0
    longest_seconds: float = 300.0
    give_up_seconds: float = 24 * 3600.0


class Delivery:
    """Sends what waits for one target."""

    def __init__(
        self, store: WorkflowStore, book: NoticeBook, sender: NoticeSender, options: DeliveryOptions | None = None
    ) -> None:
        self._store = store
        self._book = book
        self._sender = sender
        self._options = options or DeliveryOptions()
        self._failures = 0

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            try:
                wait = await self.deliver()
            except (StoreUnavailable, TimeoutError) as error:
                # (The teller, and the watchdog, say so.)
                log.debug("notices wait for the store: %s", error)
                wait = self._options.poll_seconds
            except Exception:
                log.exception("a notice to %s is left for later", self._sender.title)
                wait = _TROUBLE_SECONDS
            await asyncio.sleep(wait)

    async def deliver(self) -> float:
        """Send one notice, if any is due; gives how long to wait before the next, in seconds."""
        claimed = await self._book.claim(self._sender.target, seconds=self._sender.timeout_seconds + _MARGIN_SECONDS)
        if claimed is None:
            return self._options.poll_seconds
        if await self._store.now() - claimed.notice.at > to_us(self._options.give_up_seconds):
            log.error("notice %s to %s is given up: %s", claimed.notice.id, self._sender.title, claimed.problem)
            await self._book.settle(claimed, due_at=None)
            return 0.0
        problem = await self._send(claimed.notice)
        if problem is None:
            if self._failures:
                log.info("%s takes notices again", self._sender.title)
            self._failures = 0
            await self._book.settle(claimed, due_at=None)
            return 0.0
        return await self._failed(claimed, shortened(problem, _PROBLEM_LIMIT))

    async def _send(self, notice: Notice) -> str | None:
        try:
            return await self._sender.send(notice)
        except Exception as error:
            # No receiver, whatever it does, ends a watchdog.
            log.exception("notice %s to %s broke its sender", notice.id, self._sender.title)
            return f"{type(error).__name__} in its sender"

    async def _failed(self, claimed: ClaimedNotice, problem: str) -> float:
        wait = self._wait(claimed.attempts)
        log.log(
            logging.INFO if self._failures else logging.WARNING,
            "notice %s did not reach %s (attempt %d), tried again in %.0f s: %s",
            claimed.notice.id,
            self._sender.title,
            claimed.attempts + 1,
            wait,
            problem,
        )
        rest = self._wait(self._failures)
        self._failures += 1
        due_at = await self._store.now() + to_us(wait)
        await self._book.settle(replace(claimed, attempts=claimed.attempts + 1, problem=problem), due_at=due_at)
        return rest

    def _wait(self, failures: int) -> float:
        """Between half and all of the backoff: receivers that come back are not met by everybody at once."""
        longest = min(self._options.longest_seconds, self._options.first_seconds * 2.0 ** min(failures, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
