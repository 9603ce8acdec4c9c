"""What is done to a store behind everybody's back in one history, drawn from the seed: what only the watchdog can mend."""

from __future__ import annotations

from random import Random
from typing import Final, Literal

import msgspec

DamageKind = Literal["task-gone", "acknowledged", "timer-gone"]

_KINDS: Final[tuple[DamageKind, ...]] = ("task-gone", "acknowledged", "timer-gone")


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """`at` seconds after the beginning: the entry of an open task is deleted, or acknowledged though its worker has it
    (which then may die), or a timer is removed. `which` chooses the one it hits.
    """

    at: float
    kind: DamageKind
    which: float


def draw_damage(random: Random, seconds: float) -> tuple[Damage, ...]:
    """Damage within the first `seconds`; most histories have little of it, so that it hides nothing else."""
    return tuple(
        Damage(at=random.uniform(0.0, seconds), kind=random.choice(_KINDS), which=random.random())
        for _ in range(random.choice((0, 0, 1, 2, 4)))
    )
