"""Progress of work on many events: a bar with the time that is left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tailrace.projections.beside import OnProgress, Progress

#: How often a line is printed where there is no terminal.
LINE_SECONDS: Final = 2.0


@contextmanager
def shown_progress(what: str, *, quiet: bool) -> Iterator[OnProgress]:
    """Show what is told to the function that this gives; on standard error, nothing when `quiet`."""
    console = Console(stderr=True)
    if quiet:
        yield _ignore
    elif console.is_terminal:
        with _bar(console) as bar:
            yield _Bar(bar, what)
    else:
        yield _Lines(what)


def _ignore(progress: Progress) -> None:
    """Nobody looks."""


def _bar(console: Console) -> Bar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(separator=" of "),
        TextColumn("events,"),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=console, transient=True)


class _Bar:
    """A bar in a terminal."""

    def __init__(self, bar: Bar, what: str) -> None:
        self._bar = bar
        self._what = what
        self._task = bar.add_task(what, total=None)

    def __call__(self, progress: Progress) -> None:
        self._bar.update(
            self._task, description=_description(self._what, progress), completed=progress.done, total=progress.total
        )


class _Lines:
    """A line for each step of the work, and every `LINE_SECONDS` within one."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""
        self._next = 0.0
        self._began: tuple[float, int] | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now, progress.done
        description = _description(self._what, progress)
        if description == self._said and now < self._next and progress.done < progress.total:
            return
        self._said, self._next = description, now + LINE_SECONDS
        click.echo(
            f"{description}: {progress.done:,} of {progress.total:,} events{self._left(progress, now)}", err=True
        )

    def _left(self, progress: Progress, now: float) -> str:
        assert self._began is not None
        seconds, done = now - self._began[0], progress.done - self._began[1]
        if seconds < 1.0 or done <= 0 or progress.done >= progress.total:
            return ""
        return f", {(progress.total - progress.done) * seconds / done:.0f} s left"


def _description(what: str, progress: Progress) -> str:
    return f"{what}: {progress.step}" if progress.step else what
