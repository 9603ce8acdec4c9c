"""`tailrace why`: why a run does not move, with the evidence and what to do."""

from __future__ import annotations

from typing import Any, Final

import click

from tailrace.infra.client import path
from tailrace.infra.commands.options import NAME, gateway, json_option, print_json

#: How many runs are explained at most where all are asked about.
MOST: Final = 200


@click.command("why")
@click.argument("workflow_id", metavar="[ID]", required=False, type=NAME)
@click.option("--all", "every", is_flag=True, help="The open runs: those first that should have moved longest ago.")
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
    if workflow_id:
        diagnosis = client.get(path("workflows", workflow_id, "why"))
        print_json(diagnosis) if as_json else _print(diagnosis)
        return
    found = client.get("/why", limit=MOST)
    if as_json:
        print_json(found)
        return
    for diagnosis in found["items"]:
        _print(diagnosis)
    if not found["open"]:
        click.echo("no run is open")
    elif found["open"] > len(found["items"]):
        click.echo(f"and {found['open'] - len(found['items']):,} more are open; what many share: tailrace stalls")


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
