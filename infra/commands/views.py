"""How runs look in a terminal: a run with its stages, its timeline, and a bar for each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tailrace.infra.commands.options import STATUS_STYLES, styled, table_console

_MARKS = {"completed": "✓", "failed": "✗", "running": "▶", "pending": "·", "skipped": "-", "cancelled": "■"}

#: How far the undoing of a stage is, beside its status.
_UNDONE = {"pending": ", to be undone", "running": ", being undone", "completed": ", undone", "failed": ", not undone"}


def print_workflow(workflow: dict[str, Any], stages: Sequence[dict[str, Any]]) -> None:
    """A run with everything a person asks first."""
    console = table_console()
    console.print(heading(workflow))
    console.print(stage_table(stages))
    for name, output in workflow["stage_outputs"].items():
        console.print(Text.assemble((f"{name}: ", "bold"), _short(output)), soft_wrap=True)
    for problem in problems(workflow):
        console.print(problem)


def live_view(workflow: dict[str, Any], stages: Sequence[dict[str, Any]]) -> RenderableType:
    """The run as `watch` shows it."""
    whole = Table.grid()
    whole.add_row(_bar(workflow["progress_percentage"] / 100, 40))
    return Group(heading(workflow), whole, stage_table(stages), *problems(workflow))


def heading(workflow: dict[str, Any]) -> Text:
    """Name, status, progress and ids in two lines."""
    text = Text.from_markup(
        f"[bold]{escape(workflow['name'])}[/bold] ({workflow['type']})  {styled(workflow['status'])}"
        f"  {workflow['progress_percentage']} %"
    )
    text.append(f"\nrun {workflow['workflow_id']}  trace {workflow['trace_id'] or '-'}", style="dim")
    return text


def stage_table(stages: Sequence[dict[str, Any]]) -> Table:
    """A line for each stage."""
    table = Table("", "stage", "status", "progress", "attempt", "took", "worker", box=None, padding=(0, 2, 0, 0))
    for stage in stages:
        status = stage["status"]
        style = STATUS_STYLES.get(status, "white")
        undone = _UNDONE.get(stage.get("compensation") or "", "")
        table.add_row(
            Text(_MARKS.get(status, " "), style=style),
            stage["stage"],
            Text(status + undone, style=style),
            _bar(stage["progress"], 16),
            str(stage["attempt"] or ""),
            took(stage["started_at"], stage["finished_at"]),
            stage["worker"] or "",
        )
    return table


def problems(workflow: dict[str, Any]) -> list[RenderableType]:
    """The error and the stall of a run, where there are any."""
    found: list[RenderableType] = []
    if error := workflow["error"]:
        found.append(Panel(Text(error["message"] or error["reason"]), title=f"failed: {error['reason']}", style="red"))
    if stall := workflow["stall"]:
        body = Text(f"{stall['summary']}\n").append(stall["suggestion"], style="bold")
        found.append(Panel(body, title=f"stalled: {stall['cause']}", style="yellow"))
    return found


def took(started_at: str | None, finished_at: str | None) -> str:
    """Seconds between two RFC 3339 times."""
    if not started_at or not finished_at:
        return ""
    return f"{(datetime.fromisoformat(finished_at) - datetime.fromisoformat(started_at)).total_seconds():.2f} s"


def _bar(fraction: float, width: int) -> ProgressBar:
    return ProgressBar(total=1.0, completed=fraction, width=width)


def _short(value: Any, limit: int = 160) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]} …"
