"""`tailrace why`: why a run does not move, with the evidence and what to do."""

from __future__ import annotations

from typing import Any

import click

from tailrace.infra.client import Gateway, path
from tailrace.infra.commands.options import NAME, gateway, json_option, print_json

_OPEN = ("initiated", "running", "paused")


@click.command("why")
@click.argument("workflow_id", metavar="[ID]", required=False, type=NAME)
@click.option("--all", "every", is_flag=True, help="Every open run.")
@json_option
def why_command(workflow_id: str | None, every: bool, as_json: bool) -> None:
    """Say why a run does not move, with evidence and a suggestion.

    \b
    Example:
      tailrace why 0199a0e2-…
      tailrace why --all
    """
    if (workflow_id is None) == (not every):
        raise click.UsageError("name a run, or say --all")
    client = gateway()
    ids = [workflow_id] if workflow_id else _open_runs(client)
    found = [client.get(path("workflows", run, "why")) for run in ids]
    if as_json:
        print_json(found[0] if workflow_id else {"items": found})
        return
    if not found:
        click.echo("no run is open")
    for diagnosis in found:
        _print(diagnosis)


def _open_runs(client: Gateway) -> list[str]:
    ids: list[str] = []
    for status in _OPEN:
        cursor = None
        while True:
            page = client.get("/workflows", status=status, limit=100, cursor=cursor)
            ids += [item["workflow_id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    return ids


def _print(diagnosis: dict[str, Any]) -> None:
    cause = diagnosis["cause"]
    colour = "green" if diagnosis["healthy"] else "red"
    click.secho(f"{diagnosis['workflow_id']}  {diagnosis['status']}  ", nl=False, bold=True)
    click.secho(
        cause or "moving" if diagnosis["status"] not in {"completed", "failed", "cancelled"} else cause or "ended",
        fg=colour,
        bold=True,
    )
    click.echo(f"  {diagnosis['summary']}")
    if diagnosis["hop"]:
        click.echo(f"  hop         {diagnosis['hop']}")
    for name, value in diagnosis["evidence"].items():
        click.echo(f"  {name:<11} {value}")
    for other in diagnosis["secondary"]:
        click.echo(f"  also        {other['cause']}: {other['summary']}")
    for place in diagnosis["unreachable"]:
        click.secho(f"  not reached {place}", fg="yellow")
    if diagnosis["suggestion"]:
        click.secho(f"  try         {diagnosis['suggestion']}", bold=True)
