"""The lease thread: beats and renewals go on while a handler blocks the event loop.

Only a healthy thread of a living process renews, so a task whose worker died is claimed after one lease. What the store
answers about a task (lost, to be cancelled) is handed to the event loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from tailrace.core.errors import TailraceError
from tailrace.core.store.port import Delivery, LeaseKeeper, Renewal, WorkerBeat

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 1.0

#: How soon a round that failed is tried again. The store counts an absence of up to 1.5 s as none, and a lease is 3 s: what
#: is left between the last renewal before such an absence and the first one after it must be far below half a second.
RETRY_SECONDS: Final = 0.2


class Leases(Protocol):
    """What drives the rounds of a worker: a thread, unless a test has reasons of its own."""

    def start(self) -> None:
        """Begin; the first round is at once."""

    def stop(self) -> None:
        """End. Called off the event loop: it may wait for a round to end."""


class LeaseRounds:
    """Renews what `held` gives, and beats with what `beat` gives, one round at a time.

    `on_renewals` is called with every answer that is not `ok`, `on_failure` with what ends the rounds: without them
    nothing is renewed any more.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        *,
        held: Callable[[], Sequence[Delivery]],
        beat: Callable[[], WorkerBeat],
        on_renewals: Callable[[Sequence[Renewal]], None],
        on_failure: Callable[[Exception], None],
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        self._keeper = keeper
        self._held = held
        self._beat = beat
        self._on_renewals = on_renewals
        self._on_failure = on_failure
        self._renew_seconds = renew_seconds
        self._failing = False

    def next(self) -> float | None:
        """One round; gives the seconds until the next one, or None when there will be none."""
        try:
            # Leases first: a beat that can't be written must not cost a task.
            held = self._held()
            if held:
                answers = [renewal for renewal in self._keeper.renew(held) if renewal.outcome != "ok"]
                if answers:
                    self._on_renewals(answers)
            self._keeper.beat(self._beat())
            if self._failing:
                log.info("leases are renewed again")
            self._failing = False
        except TailraceError as error:
            # The lease stands still with the store: when it is back, the next round renews.
            if not self._failing:
                log.warning("leases can't be renewed: %s", error)
            self._failing = True
        except Exception as error:  # on a thread nobody would hear of it
            log.exception("the lease thread ends")
            self._on_failure(error)
            return None
        return min(RETRY_SECONDS, self._renew_seconds) if self._failing else self._renew_seconds

    def close(self) -> None:
        """Close the connection."""
        self._keeper.close()


class LeaseThread:
    """Rounds on a thread of their own, once a second until `stop`."""

    def __init__(self, rounds: LeaseRounds) -> None:
        self._rounds = rounds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin; the first beat goes out at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, and close the connection; returns when the thread is gone (at most one call to the store)."""
        self._stopped.set()
        self._thread.join()
        self._rounds.close()

    def _run(self) -> None:
        while (wait := self._rounds.next()) is not None and not self._stopped.wait(wait):
            pass
