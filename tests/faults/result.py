"""What was found in each case, and how many were right: as values, as JSON and as a table."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tailrace.infra.cli import COMMANDS

_COMMAND = re.compile(r"\btailrace (\w+)")

#: A stall is to be flagged within this time after its expectation has passed, or self-healing should have ended.
AIM_SECONDS = 5.0


def is_possible(suggestion: str) -> bool:
    """Whether every command of ours in a suggestion is one that there is; an empty one suggests nothing."""
    return bool(suggestion) and all(name in COMMANDS for name in _COMMAND.findall(suggestion))


class Outcome(msgspec.Struct, kw_only=True):
    """One case. `seconds` from when the cause was due until it was recorded; below zero when it was seen earlier."""

    name: str
    way: str
    expected: str | None
    found: str | None = None
    seconds: float | None = None
    suggestion: str = ""
    detail: str = ""
    error: str = ""
    took_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """The right cause with something to do about it; or none, where there is none."""
        named = self.expected is None or is_possible(self.suggestion)
        return not self.error and self.found == self.expected and named


class Result(msgspec.Struct, kw_only=True):
    """All cases that were played."""

    outcomes: list[Outcome]
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Outcome]:
        """Faults that got another cause or none, healthy runs that were flagged, and cases that broke."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def summary(self) -> dict[str, float | int | None]:
        """The accuracy in figures. Times are those of stalls, in seconds after they were due."""
        faults = [outcome for outcome in self.outcomes if outcome.expected is not None]
        healthy = [outcome for outcome in self.outcomes if outcome.expected is None]
        times = sorted(
            max(0.0, outcome.seconds) for outcome in faults if outcome.way == "stall" and outcome.seconds is not None
        )
        return {
            "faults": len(faults),
            "right": sum(outcome.ok for outcome in faults),
            "wrong": sum(not outcome.ok for outcome in faults),
            "healthy": len(healthy),
            "healthy_flagged": sum(outcome.found is not None for outcome in healthy),
            "broken": sum(bool(outcome.error) for outcome in self.outcomes),
            "median_seconds": statistics.median(times) if times else None,
            "p99_seconds": _p99(times) if times else None,
            "later_than_aim": sum(seconds > AIM_SECONDS for seconds in times),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> RenderableType:
        """For people."""
        table = Table("case", "expected", "found", "by", "seconds", "suggestion", "", title_justify="left", expand=True)
        for outcome in self.outcomes:
            late = outcome.seconds is not None and outcome.seconds > AIM_SECONDS
            seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
            table.add_row(
                outcome.name,
                outcome.expected or "-",
                outcome.found or "-",
                outcome.way,
                f"[yellow]{seconds}[/yellow]" if late else seconds,
                escape(outcome.suggestion),
                "[green]ok[/green]" if outcome.ok else "[red]wrong[/red]",
            )
        said = [Text(f"{outcome.name}: {outcome.error or outcome.detail}", style="red") for outcome in self.wrong]
        return Group(table, *said, Text(_words(self.summary())))


def _words(figures: dict[str, float | int | None]) -> str:
    text = (
        f"{figures['right']} of {figures['faults']} faults named right, {figures['wrong']} wrong; "
        f"{figures['healthy_flagged']} of {figures['healthy']} healthy cases flagged"
    )
    if figures["broken"]:
        text += f"; {figures['broken']} cases could not be played"
    if figures["median_seconds"] is not None:
        text += f"; flagged {figures['median_seconds']:.1f} s after it was due in the median, p99 "
        text += f"{figures['p99_seconds']:.1f} s, {figures['later_than_aim']} later than {AIM_SECONDS:g} s"
    return f"{text}; {figures['seconds']:.0f} s in all"


def _p99(ordered: Sequence[float]) -> float:
    """The nearest rank."""
    return ordered[min(len(ordered) - 1, -(-99 * len(ordered) // 100) - 1)]
