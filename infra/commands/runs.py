"""`submit`, `list`, `show`, `events`: starting runs and looking at them, through the gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from tailrace.infra.client import path
from tailrace.infra.commands.options import NAME, clock_time, gateway, json_option, print_json, styled, table_console

TERMINAL = ("completed", "failed", "cancelled")

#: From so many columns on a list has all it could show.
ROOMY: Final = 110


@click.command("submit")
@click.argument("type", metavar="TYPE")
@click.option("--name", required=True, help="A name for the run.")
@click.option("--requirements", help="What is wanted, in words.")
@click.option("--description", help="More about it, for people.")
@click.option("--input", "input_file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file.")
@click.option("--priority", type=click.Choice(["low", "medium", "high", "critical"]), default="medium")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option("--wait", is_flag=True, help="Follow the run to its end, and exit by its outcome.")
@json_option
def submit_command(
    *, input_file: Path | None, labels: tuple[str, ...], wait: bool, as_json: bool, **fields: str | None
) -> int:
    """Start a run of the definition TYPE, and print its id.

    \b
    Example:
      tailrace submit app --name calculator-app --requirements "a calculator that can add and divide" --wait
    """
    body: dict[str, Any] = {key: value for key, value in fields.items() if value}
    if input_file is not None:
        try:
            body["input"] = json.loads(input_file.read_text())
        except ValueError as error:
            raise click.ClickException(f"{input_file} is not JSON: {error}") from error
    if labels:
        body["labels"] = dict(_label(label) for label in labels)
    client = gateway()
    workflow = client.post("/workflows", body)
    if wait:
        from tailrace.infra.commands.watch import follow  # noqa: PLC0415  # rich is slow to import

        workflow = follow(client, workflow["workflow_id"], quiet=as_json)
    if as_json:
        print_json(workflow)
    elif not wait:
        click.echo(workflow["workflow_id"])
        if sys.stdout.isatty():
            click.echo(f"follow it with: tailrace watch {workflow['workflow_id']}", err=True)
    return 0 if workflow["status"] not in {"failed", "cancelled"} else 1


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


@click.command("list")
@click.option("--status", help="Only runs with this status.")
@click.option("--type", "type_", help="Only runs of this definition.")
@click.option("--label", help="Only runs with this label, KEY=VALUE.")
@click.option("--input", help="Only runs whose input holds this JSON object.")
@click.option("--query", "q", help="Only runs whose name or description holds this text, or whose id begins with it.")
@click.option("--stalled", is_flag=True, help="Only stalled runs.")
@click.option("--limit", default=20, show_default=True)
@click.option("--cursor", help="Where the page before ended.")
@json_option
def list_command(as_json: bool, stalled: bool, type_: str | None, **query: Any) -> None:
    """List runs, newest first.

    \b
    Example:
      tailrace list --status failed
      tailrace list --input '{"customer": "acme"}'
    """
    page = gateway().get("/workflows", type=type_, stalled="true" if stalled else None, **query)
    if as_json:
        print_json(page)
        return
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = table_console()
    roomy = console.width >= ROOMY
    table = Table(*(("id", "type", "name") if roomy else ("id", "name")), "status", "%", "stage", box=None)
    if roomy:
        table.add_column("created")
    table.columns[0].no_wrap = True
    for item in page["items"]:
        stall = (item["stall"] or {}).get("cause", "")
        status = styled(item["status"]) + (f" [red]{stall}[/red]" if stall else "")
        table.add_row(
            item["workflow_id"],
            *((item["type"],) if roomy else ()),
            escape(item["name"]),
            status,
            str(item["progress_percentage"]),
            item["current_stage"] or "",
            *((item["created_at"][:19].replace("T", " "),) if roomy else ()),
        )
    console.print(table)
    if page["next_cursor"]:
        click.echo(f"more: tailrace list --cursor {page['next_cursor']}")


@click.command("show")
@click.argument("workflow_id", metavar="ID", type=NAME)
@json_option
def show_command(workflow_id: str, as_json: bool) -> None:
    """Show a run: its stages, outputs, errors and stall.

    \b
    Example:
      tailrace show 0199a0e2-…
    """
    client = gateway()
    workflow = client.get(path("workflows", workflow_id))
    stages = client.get(path("workflows", workflow_id, "stages"))["items"]
    if as_json:
        print_json({**workflow, "stages": stages})
        return
    from tailrace.infra.commands.views import print_workflow  # noqa: PLC0415

    print_workflow(workflow, stages)


@click.command("events")
@click.argument("workflow_id", metavar="ID", type=NAME)
@click.option("--follow", is_flag=True, help="Go on until the run ends.")
@json_option
def events_command(workflow_id: str, follow: bool, as_json: bool) -> None:
    """Print the events of a run.

    \b
    Example:
      tailrace events 0199a0e2-… --follow
    """
    client = gateway()
    if follow:
        for event in client.stream(path("workflows", workflow_id, "events")):
            if event.event != "gap":
                _print_event(event.data, as_json)
        return
    after: str | None = None
    while True:
        page = client.get(path("workflows", workflow_id, "events"), after=after)
        for item in page["items"]:
            _print_event(item, as_json)
        after = page["next_cursor"]
        if after is None:
            return


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event, ensure_ascii=False))
        return
    data = dict(event["data"])
    version = data.pop("version", "")
    data.pop("seq", None)
    kind = event["type"].rpartition(".")[2]
    facts = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in data.items())
    click.echo(f"{clock_time(event['time'])} {version:>4} {click.style(kind, bold=True)} {facts[:300]}")
