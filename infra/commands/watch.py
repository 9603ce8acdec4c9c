"""`tailrace watch`: a live view of one run, or of all that are open."""

from __future__ import annotations

import time
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from tailrace.infra.client import Gateway, path
from tailrace.infra.commands.options import NAME, gateway, json_option, print_json, styled
from tailrace.infra.commands.views import live_view

TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
_EVERY_SECONDS: Final = 1.0


@click.command("watch")
@click.argument("workflow_id", metavar="[ID]", required=False, type=NAME)
@json_option
def watch_command(workflow_id: str | None, as_json: bool) -> int:
    """Watch a run until it ends, or all open runs until Ctrl-C.

    \b
    Example:
      tailrace watch 0199a0e2-…
    """
    client = gateway()
    if workflow_id is None:
        _watch_all(client, as_json)
        return 0
    workflow = follow(client, workflow_id, quiet=as_json)
    if as_json:
        print_json(workflow)
    return 0 if workflow["status"] == "completed" else 1


def follow(client: Gateway, workflow_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Show a run as it moves, event by event; gives it as it ended."""
    console = Console(quiet=quiet)
    workflow, stages = _look(client, workflow_id)
    with Live(live_view(workflow, stages), console=console, refresh_per_second=8) as live:
        for _ in client.stream(path("workflows", workflow_id, "events")):
            workflow, stages = _look(client, workflow_id)
            live.update(live_view(workflow, stages))
            if workflow["status"] in TERMINAL:
                break
        workflow, stages = _look(client, workflow_id)
        live.update(live_view(workflow, stages))
    return workflow


def _look(client: Gateway, workflow_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    workflow = client.get(path("workflows", workflow_id))
    return workflow, client.get(path("workflows", workflow_id, "stages"))["items"]


def _watch_all(client: Gateway, as_json: bool) -> None:
    console = Console(quiet=as_json)
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            page = client.get("/workflows", limit=30)
            if as_json:
                print_json(page)
                return
            table = Table(Column("id", no_wrap=True), "name", "status", "progress", "stage", "stall")
            for item in page["items"]:
                stall = (item["stall"] or {}).get("cause", "")
                table.add_row(
                    item["workflow_id"],
                    escape(item["name"]),
                    styled(item["status"]),
                    f"{item['progress_percentage']} %",
                    item["current_stage"] or "",
                    f"[red]{stall}[/red]" if stall else "",
                )
            live.update(table)
            time.sleep(_EVERY_SECONDS)
