"""A case of the corpus: what is done to real processes, and which cause the watchdog has to give for it, or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from tests.faults.ground import Ground
    from tests.faults.probe import Probe

Play: TypeAlias = Callable[["Ground", "Probe"], Awaitable[None]]
Way: TypeAlias = Literal["stall", "why", "healthy"]

CASES: dict[str, Case] = {}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """`cause` is the label: None for what must not be flagged. `fast` ones are played by `make test`.

    `calm` ones mean a process that is there again in time, which a machine full of other cases does not give: they are played
    last, a few at a time.

    `way`: by what the cause is found, the event `WorkflowStalled` or `why`.
    """

    name: str
    cause: str | None
    way: Way
    play: Play
    fast: bool = False
    calm: bool = False

    @property
    def what(self) -> str:
        """One sentence for people."""
        return (self.play.__doc__ or "").partition("\n")[0]


def stall(cause: str, *, fast: bool = False, calm: bool = False) -> Callable[[Play], Play]:
    """A fault that the watchdog has to record in the run's log."""
    return _known("stall", cause, fast, calm)


def why(cause: str, *, fast: bool = False, calm: bool = False) -> Callable[[Play], Play]:
    """A fault, or a wait, that is no stall: `why` has to name it, and nothing may be recorded."""
    return _known("why", cause, fast, calm)


def healthy(*, fast: bool = False, calm: bool = False) -> Callable[[Play], Play]:
    """Something that goes on, or heals itself: nothing may be recorded."""
    return _known("healthy", None, fast, calm)


def _known(way: Way, cause: str | None, fast: bool, calm: bool) -> Callable[[Play], Play]:
    def keep(play: Play) -> Play:
        name = play.__name__.replace("_", "-")
        assert name not in CASES, f"there are two cases {name}"
        CASES[name] = Case(name=name, cause=cause, way=way, play=play, fast=fast, calm=calm)
        return play

    return keep
