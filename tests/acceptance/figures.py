"""What the tests measure on the way, printed when all have run. No test asserts speed."""

from __future__ import annotations

import sys

FIGURES: list[str] = []


def measured(text: str) -> None:
    """Keep a figure for the end, and say it now."""
    FIGURES.append(text)
    sys.stdout.write(f"\n{text}\n")
