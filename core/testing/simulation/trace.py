"""What happened, in order: the same seed gives the same lines, byte for byte."""

from __future__ import annotations

import asyncio
from typing import Any


class Trace:
    """Lines of (time, process, what). They are only spelled when somebody reads them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begun = loop.time()
        self._lines: list[tuple[float, str, tuple[Any, ...]]] = []
        self._ended = False

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, name: str, *what: Any) -> None:
        """Note what a process did; values that print the same each time."""
        if not self._ended:
            self._lines.append((self._loop.time(), name, what))

    def end(self) -> None:
        """Note nothing more: what follows is tidying up."""
        self._ended = True

    def lines(self, last: int | None = None) -> list[str]:
        """The last lines, or all of them."""
        chosen = self._lines if last is None else self._lines[-last:]
        return [
            f"{at - self._begun:10.6f} {name:<15} {' '.join(str(part) for part in what)}" for at, name, what in chosen
        ]
