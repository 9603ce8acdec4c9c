"""What goes wrong, and when: a list made from a seed before anything runs, so that a seed means the same faults again.

Faults come from a deck that holds every kind and target once; it is shuffled, played to its end, and shuffled again. So a
short trial meets nearly all of them, and a long one meets each about as often.
"""

from __future__ import annotations

from random import Random
from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "kill process",
    "stop process",
    "kill redis",
    "stop redis",
    "end postgres",
    "kill postgres",
    "cut redis",
    "cut postgres",
    "refuse redis",
    "delay redis",
    "delay postgres",
    "lose redis reply",
    "lose redis request",
    "lose postgres reply",
]

#: Processes of the installation by the name that `up` has for them, and those that stand by.
PROCESSES: Final = (
    "gateway",
    "orchestrator",
    "projector",
    "watchdog",
    "worker-simulated:alpha",
    "worker-simulated:beta",
    "orchestrator-2",
    "worker-alpha-2",
)
#: Those that hold a lease: standing still, they lose it and come back as somebody whose time has passed.
STOPPED: Final = tuple(name for name in PROCESSES if name != "orchestrator-2")

#: From the shortest to the longest, in seconds.
_LASTS: Final[dict[Kind, tuple[float, float]]] = {
    "stop process": (1.0, 4.0),
    "kill redis": (0.0, 1.5),
    "stop redis": (1.0, 4.0),
    "end postgres": (2.0, 5.0),
    "kill postgres": (0.0, 1.0),
    "refuse redis": (0.3, 1.5),
    "delay redis": (1.0, 4.0),
    "delay postgres": (1.0, 4.0),
}
_ON_A_SERVER: Final[tuple[Kind, ...]] = (
    "kill redis",
    "stop redis",
    "end postgres",
    "kill postgres",
    "cut redis",
    "cut postgres",
    "refuse redis",
    "delay redis",
    "delay postgres",
    "lose redis reply",
    "lose redis reply",
    "lose redis request",
    "lose postgres reply",
)
_DELAYS_SECONDS: Final = (0.05, 0.2)
_TIMES: Final = (1, 4)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: when it begins and how long it lasts, in seconds; `delay_seconds` per reply, `times` requests."""

    at: float
    kind: Kind
    target: str
    lasts: float = 0.0
    delay_seconds: float = 0.0
    times: int = 0


def schedule(seed: int, seconds: float, *, postgres_away_seconds: float) -> list[Fault]:
    """The faults of a trial that ends all of them after `seconds`.

    The first time that Postgres is ended it stays away for `postgres_away_seconds`.
    """
    random = Random(f"faults {seed}")
    spacing = min(0.9, seconds / 30)
    faults: list[Fault] = []
    deck: list[tuple[Kind, str]] = []
    away = Fault(
        at=random.uniform(0.1, 0.5) * seconds, kind="end postgres", target="postgres", lasts=postgres_away_seconds
    )
    at = 0.0
    while (at := at + random.uniform(0.4, 1.6) * spacing) < seconds:
        if not deck:
            deck = _deck()
            random.shuffle(deck)
        kind, target = deck.pop()
        lasts = random.uniform(*_LASTS.get(kind, (0.0, 0.0)))
        fault = Fault(
            at=at,
            kind=kind,
            target=target,
            lasts=lasts,
            delay_seconds=random.uniform(*_DELAYS_SECONDS),
            times=random.randint(*_TIMES),
        )
        if at + lasts <= seconds:
            faults.append(fault)
    return sorted([*faults, away], key=lambda fault: fault.at)


def _deck() -> list[tuple[Kind, str]]:
    return [
        *(("kill process", name) for name in PROCESSES),
        *(("stop process", name) for name in STOPPED),
        *((kind, kind.split()[1]) for kind in _ON_A_SERVER),
    ]
