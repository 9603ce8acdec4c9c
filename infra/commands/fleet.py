"""`agents` and `stalls`: who works, and what stands still."""

from __future__ import annotations

import click

from tailrace.infra.commands.options import gateway, json_option, print_json, table_console


@click.command("agents")
@json_option
def agents_command(as_json: bool) -> None:
    """Show every agent: live workers, backlog, tasks in flight.

    \b
    Example:
      tailrace agents
    """
    page = gateway().get("/agents")
    if as_json:
        print_json(page)
        return
    from rich.table import Table  # noqa: PLC0415

    table = Table("agent", "workers", "backlog", "in flight", "oldest wait", "success")
    for item in page["items"]:
        rate = item["success_rate"]
        live = item["live_workers"]
        table.add_row(
            item["agent"],
            str(live) if live else "[red]none[/red]",
            str(item["backlog"]),
            f"{item['in_flight']} of {item['slots']}",
            f"{item['oldest_wait_seconds']:.1f} s",
            "" if rate is None else f"{100 * rate:.0f} %",
        )
    table_console().print(table)


@click.command("stalls")
@json_option
def stalls_command(as_json: bool) -> None:
    """Show runs that stand still, with the cause.

    \b
    Example:
      tailrace stalls
    """
    page = gateway().get("/stalls")
    if as_json:
        print_json(page)
        return
    if not page["items"]:
        click.echo("nothing stands still")
        return
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    table = Table(Column("run", no_wrap=True), "cause", "hop", "since", "summary")
    for item in page["items"]:
        table.add_row(
            item["workflow_id"],
            f"[red]{item['cause']}[/red]",
            item["hop"],
            str(item["since"])[:19],
            escape(item["summary"]),
        )
    table_console().print(table)
