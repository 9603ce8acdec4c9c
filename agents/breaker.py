"""A circuit breaker per outside service: a dependency that is down is named, and not hammered.

Closed until `failure_limit` failures in a row; then open for `open_seconds`, refusing at once; then half open: one call
goes through as a probe, its success closes the breaker, its failure opens it again. The clock is injected, so a test
turns it by hand. Use it from one event loop; `async with breaker:` around each call, or `await breaker.call(f, …)`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from types import TracebackType
from typing import ParamSpec, TypeVar

import msgspec

from tailrace.core.errors import TaskError

P = ParamSpec("P")
T = TypeVar("T")

PROBE_WAIT_SECONDS = 1.0
"""What a caller is told to wait while somebody else's probe is under way."""


class State(StrEnum):
    """What a breaker does with the next call: let it through, refuse it, or let one through as a probe."""

    closed = "closed"
    open = "open"
    half_open = "half-open"


class BreakerState(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker as a heartbeat reports it. `open_until` counts in seconds of the breaker's own clock."""

    name: str
    state: State
    failures: int
    open_until: float | None = None
    retry_after_seconds: float = 0.0
    last_error: str = ""


class Breaker:
    """The breaker that guards the dependency `name`; shared by all handlers of a process."""

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        failure_limit: int = 5,
        open_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._clock = clock
        self._failure_limit = failure_limit
        self._open_seconds = open_seconds
        self._failures = 0
        self._open_until: float | None = None
        self._last_error = ""
        self._probe: asyncio.Task[object] | None = None

    @property
    def state(self) -> State:
        """The state now; an open breaker becomes half open by the clock alone."""
        if self._open_until is None:
            return State.closed
        return State.open if self._clock() < self._open_until else State.half_open

    def snapshot(self) -> BreakerState:
        """The state as a value, for heartbeats and diagnoses."""
        return BreakerState(
            name=self.name,
            state=self.state,
            failures=self._failures,
            open_until=self._open_until,
            retry_after_seconds=self._remaining(),
            last_error=self._last_error,
        )

    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `function(…)` under the breaker; raises what it raises, or `TaskError` (`dependency-open`)."""
        async with self:
            return await function(*args, **kwargs)

    async def __aenter__(self) -> None:
        match self.state:
            case State.closed:
                return
            case State.open:
                raise self._refusal(self._remaining())
            case State.half_open:
                if self._probe is not None and not self._probe.done():
                    raise self._refusal(PROBE_WAIT_SECONDS)
                self._probe = asyncio.current_task()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        probing = self._probe is not None and self._probe is asyncio.current_task()
        if probing:
            self._probe = None
        elif self._open_until is not None:
            # A call from before the breaker opened: its outcome says nothing about now.
            return
        if error is None or (isinstance(error, TaskError) and not error.may_retry):
            # An answer that refuses the request for good is an answer: the dependency is there.
            self._failures, self._open_until = 0, None
        elif isinstance(error, Exception):
            self._fail(error, probing=probing)

    def _fail(self, error: Exception, *, probing: bool) -> None:
        self._failures += 1
        self._last_error = f"{type(error).__name__}: {error}"[:300]
        if probing or self._failures >= self._failure_limit:
            self._open_until = self._clock() + self._open_seconds

    def _remaining(self) -> float:
        return 0.0 if self._open_until is None else max(0.0, round(self._open_until - self._clock(), 3))

    def _refusal(self, retry_after_seconds: float) -> TaskError:
        return TaskError(
            "dependency-open",
            f"{self.name} failed {self._failures} times in a row; next try in {retry_after_seconds:.0f} s",
            retryable=True,
            details={
                "dependency": self.name,
                "retry_after_seconds": retry_after_seconds,
                "last_error": self._last_error,
            },
        )
