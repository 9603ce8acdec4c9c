"""The lease thread: beats and renewals go on while a handler blocks the event loop.

Only a healthy thread of a living process renews, so a task whose worker died is claimed after one lease. What the store
answers about a task (lost, to be cancelled) is handed to the event loop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from tailrace.core.errors import TailraceError
from tailrace.core.store.port import Delivery, LeaseKeeper, Renewal, WorkerBeat

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 1.0

#: How soon a round that failed is tried again. The store counts an absence of up to 1.5 s as none, and a lease is 3 s: what
#: is left between the last renewal before such an absence and the first one after it must be far below half a second.
RETRY_SECONDS: Final = 0.2


class LeaseThread:
    """Renews what `held` gives, and beats with what `beat` gives, once a second until `stop`.

    `on_renewals` is called on the thread with every answer that is not `ok`, `on_failure` with what ends the
    thread: without it nothing is renewed any more.
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
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin; the first beat goes out at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, and close the connection; returns when the thread is gone (at most one call to the store)."""
        self._stopped.set()
        self._thread.join()
        self._keeper.close()

    def _run(self) -> None:
        failing = False
        while True:
            try:
                # Leases first: a beat that can't be written must not cost a task.
                held = self._held()
                if held:
                    answers = [renewal for renewal in self._keeper.renew(held) if renewal.outcome != "ok"]
                    if answers:
                        self._on_renewals(answers)
                self._keeper.beat(self._beat())
                if failing:
                    log.info("leases are renewed again")
                failing = False
            except TailraceError as error:
                # The lease stands still with the store: when it is back, the next round renews.
                if not failing:
                    log.warning("leases can't be renewed: %s", error)
                failing = True
            except Exception as error:  # on a thread nobody would hear of it
                log.exception("the lease thread ends")
                self._on_failure(error)
                return
            if self._stopped.wait(min(RETRY_SECONDS, self._renew_seconds) if failing else self._renew_seconds):
                return
