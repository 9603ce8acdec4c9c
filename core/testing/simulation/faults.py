"""What goes wrong in one history, and when: drawn from the seed before it begins, and counted as it happens.

A `FaultPlan` has rates (of single calls), crash points with a countdown, and faults at set times. Each plan leaves some kinds
out, so that no kind hides what another one would show.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final, Literal

import msgspec

CallFault = Literal["lost-request", "lost-reply", "late-effect", "delay", "twice"]
TimedFault = Literal["kill", "stop", "stall", "freeze", "outage", "clock-forth", "clock-back", "entry-gone"]

#: Rates of calls are drawn up to these.
_RATES: Final[dict[CallFault, float]] = {
    "lost-request": 0.06,
    "lost-reply": 0.08,
    "late-effect": 0.06,
    "delay": 0.08,
    "twice": 0.12,
}
_TIMED: Final[tuple[TimedFault, ...]] = (
    *("kill", "kill", "stall", "stall"),
    *("stop", "freeze", "outage", "clock-forth", "clock-back", "entry-gone"),
)
#: What may be sent twice by a connection that is made anew: what is checked against a version, an owner or a delivery.
_REPEATABLE: Final = frozenset({"append", "report", "renew", "release", "acquire", "commit", "trim_log", "expire_runs"})

_OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "gateway": ("load", "append", "append"),
    "orchestrator": ("acquire", "read_reports", "load_all", "append", "append", "append", "due_timers", "release"),
    "worker": ("join", "reconcile", "take", "take", "claim", "inputs", "report", "report", "renew", "beat", "release"),
    "projector": ("read_log", "commit"),
    "forgetter": ("trim_log", "expire_runs"),
    "watchdog": ("overdue", "open_entries", "append", "postpone"),
}
#: `<kind of process>.<operation>.<before | after>`: before its effect on the store, or after it and before the reply.
CRASH_POINTS: Final = tuple(
    f"{kind}.{operation}.{moment}"
    for kind, operations in _OPERATIONS.items()
    for operation in operations
    for moment in ("before", "after")
)


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """A fault at a time: seconds from the beginning, for `seconds`; `which` chooses whom it hits."""

    at: float
    kind: TimedFault
    seconds: float
    which: float


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that goes wrong in one history. `crashes` are crash points, each with the passage at which it kills."""

    seconds: float
    rates: dict[CallFault, float] = {}
    crashes: dict[str, int] = {}
    timed: tuple[Timed, ...] = ()


def draw_plan(random: Random, seconds: float) -> FaultPlan:
    """A plan for a history whose faults last `seconds`."""
    rates = {kind: random.uniform(0.0, most) for kind, most in _RATES.items() if random.random() < 0.4}
    points = random.sample(CRASH_POINTS, random.choice((0, 2, 4, 8, 16)))
    crashes = {point: 1 + int(random.expovariate(0.15)) for point in points}
    kinds = [kind for kind in _TIMED if random.random() < 0.5]
    timed = [
        Timed(
            at=random.uniform(0.0, seconds),
            kind=random.choice(kinds),
            seconds=random.choice((0.2, 1.0, 2.0, 3.5, 6.0)) * random.uniform(0.5, 1.2),
            which=random.random(),
        )
        for _ in range(random.randrange(9) if kinds else 0)
    ]
    return FaultPlan(
        seconds=seconds, rates=rates, crashes=crashes, timed=tuple(sorted(timed, key=lambda fault: fault.at))
    )


class Faults:
    """A plan under way. `active` until faults stop; `outages` counts those that last; `over` once nothing counts any more."""

    def __init__(self, plan: FaultPlan, random: Random) -> None:
        self.plan = plan
        self.active = True
        self.over = False
        self.outages = 0
        self.injected: Counter[str] = Counter()
        self.crashed: Counter[str] = Counter()
        self._random = random
        self._left = dict(plan.crashes)
        self._rates = tuple(plan.rates.items())

    def strike(self, operation: str) -> CallFault | None:
        """What happens to this call, if anything."""
        if not self.active or not self._rates:
            return None
        drawn = self._random.random()
        for kind, rate in self._rates:
            if drawn < rate:
                if kind == "twice" and operation not in _REPEATABLE:
                    return None
                self.injected[kind] += 1
                return kind
            drawn -= rate
        return None

    def is_fatal(self, point: str) -> bool:
        """Whether the process dies here; counts the passage."""
        left = self._left.get(point)
        if left is None or not self.active:
            return False
        if left > 1:
            self._left[point] = left - 1
            return False
        del self._left[point]
        self.crashed[point] += 1
        return True

    def latency(self) -> float:
        """How long one way of a call takes, in seconds."""
        drawn = self._random.random()
        return 0.0 if drawn < 0.6 else drawn * 0.004

    def delay(self) -> float:
        """How long something takes that takes too long, in seconds."""
        return self._random.choice((0.05, 0.5, 2.5, 4.5)) * self._random.uniform(0.5, 1.5)
