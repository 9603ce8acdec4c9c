"""What a trial did and found, as a value, as JSON and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

#: A task of a killed worker is running again within this time, at default settings.
PROMISED_SECONDS = 5.0
#: What a test may ask of a machine that is busy with other things.
BOUND_SECONDS = 3 * PROMISED_SECONDS


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How measured seconds are spread."""

    count: int
    least: float
    median: float
    p90: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution:
        """At least one measurement."""
        ordered = sorted(seconds)
        return cls(
            count=len(ordered),
            least=ordered[0],
            median=statistics.median(ordered),
            p90=ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
            most=ordered[-1],
        )


class Result(msgspec.Struct, kw_only=True):
    """A trial. `checked` counts what each check looked at; without `failures` it was passed.

    `injected` counts faults as they were begun: one that loses replies loses several, and `lost` in all of them together.
    """

    seed: int
    seconds: float = 0.0
    phases: dict[str, float] = {}
    injected: dict[str, int] = {}
    skipped: int = 0
    lost: int = 0
    checked: dict[str, int] = {}
    runs: dict[str, int] = {}
    worker_kills: int = 0
    recovery: dict[str, Distribution] = {}
    failures: list[str] = []

    def table(self) -> RenderableType:
        """For people."""
        return Group(*self._parts())

    def _parts(self) -> list[RenderableType]:
        recovery = Table(
            "tasks of killed workers, seconds", "tasks", "min", "median", "p90", "max", title_justify="left"
        )
        for way, spread in self.recovery.items():
            figures = (spread.least, spread.median, spread.p90, spread.most)
            cells = [f"[{'green' if value <= PROMISED_SECONDS else 'yellow'}]{value:.2f}[/]" for value in figures]
            recovery.add_row(way, str(spread.count), *cells)
        parts: list[RenderableType] = [
            _counts("injected", self.injected),
            _counts("runs by status", self.runs),
            _counts("checked", self.checked),
            _counts("seconds", {name: round(seconds) for name, seconds in self.phases.items()}),
            recovery,
        ]
        outcome = "[red]failed[/red]" if self.failures else "[green]passed[/green]"
        summary = (
            f"{outcome}: {sum(self.injected.values())} faults ({self.skipped} left out), "
            f"{self.lost} requests or replies lost, {self.worker_kills} kills of "
            f"workers that held a task, {self.seconds:.0f} s\nseed {self.seed}"
        )
        return [*parts, *(Text(failure, style="red") for failure in self.failures), Text.from_markup(summary)]


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(title, "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    table.columns[0].min_width = 44
    for name, count in sorted(counts.items()) if title == "injected" else counts.items():
        table.add_row(name, str(count))
    return table
