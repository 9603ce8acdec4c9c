"""Figures with what they aim at, and how they are shown. Nothing fails on a slow machine: a figure off its aim is red."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure with its unit; at most `aim`, or at least that."""

    name: str
    value: float
    unit: str
    aim: float
    at_least: bool = False

    @property
    def good(self) -> bool:
        """Whether it is on the right side of its aim."""
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    def coloured(self) -> str:
        """Value and unit, for rich."""
        style = "green" if self.good else "red"
        return f"[{style}]{self.value:.2f} {self.unit}[/{style}]"


def figure_table(figures: Iterable[Figure], title: str) -> Table:
    """A row for each."""
    table = Table("figure", "measured", "aim", title=title)
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        table.add_row(figure.name, figure.coloured(), f"{sign} {figure.aim:g} {figure.unit}")
    return table
