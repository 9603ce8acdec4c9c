"""What commands share: options, the client, and how results are shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from tailrace.infra.client import Gateway
from tailrace.infra.config import Settings, load_settings

#: Columns of a table that a program reads, or a file keeps.
WIDE: Final = 200

F = TypeVar("F", bound=Callable[..., Any])

STATUS_STYLES = {
    "completed": "green",
    "running": "cyan",
    "dispatched": "cyan",
    "initiated": "blue",
    "pending": "dim",
    "paused": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "skipped": "dim",
}


PORT: Final = click.IntRange(0, 65535)


class _Name(click.ParamType[str]):
    """An id or a name: anything but nothing, and what a path reads as a direction."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or value in {".", ".."}:
            self.fail(f"{value!r} names nothing", param, ctx)
        return str(value)


NAME: Final = _Name()


def json_option(command: F) -> F:
    """`--json`: one JSON document on standard output, for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def data_dir_option(command: F) -> F:
    """`--data-dir`: where a local deployment keeps everything."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="Data of a deployment on this machine (TAILRACE_DATA_DIR; default .tailrace).",
    )(command)


def gateway(settings: Settings | None = None) -> Gateway:
    """A client of the gateway that TAILRACE_URL, or a running `tailrace up`, names."""
    found = settings or load_settings()
    return Gateway(found.url, found.token)


def table_console() -> Any:
    """A `rich` console for tables: as wide as the terminal, and wide enough for everything where there is none."""
    from rich.console import Console  # noqa: PLC0415  # slow to import, and not needed for JSON

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDE)


def print_json(document: Any) -> None:
    """Pretty-printed JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """JSON on one line, of those that go on and say more."""
    click.echo(json.dumps(document, ensure_ascii=False))


def styled(status: str) -> str:
    """A status in its colour, for rich."""
    style = STATUS_STYLES.get(status, "white")
    return f"[{style}]{status}[/{style}]"


def clock_time(at: str | None) -> str:
    """`12:34:56.789` of an RFC 3339 time."""
    return at[11:23] if at else ""
