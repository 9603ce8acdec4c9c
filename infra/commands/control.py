"""`cancel`, `pause`, `resume`, `retry`: telling a run what to do."""

from __future__ import annotations

from typing import Any

import click

from tailrace.infra.client import path
from tailrace.infra.commands.options import NAME, gateway, json_option, print_json


def _tell(workflow_id: str, command: str, body: dict[str, Any], as_json: bool) -> None:
    workflow = gateway().post(path("workflows", workflow_id, command), body)
    if as_json:
        print_json(workflow)
    elif command == "cancel" and workflow["status"] != "cancelled":
        click.echo(f"{workflow_id} is {workflow['status']}: what its stages did is undone, then it ends as cancelled")
    else:
        click.echo(f"{workflow_id} is {workflow['status']}")


@click.command("cancel")
@click.argument("workflow_id", metavar="ID", type=NAME)
@click.option("--reason", default="", help="Why; it is kept with the event.")
@json_option
def cancel_command(workflow_id: str, reason: str, as_json: bool) -> None:
    """End a run; its handlers are told to stop, and what its stages did is undone first where they declare how.

    \b
    Example:
      tailrace cancel 0199a0e2-… --reason "wrong requirements"
    """
    _tell(workflow_id, "cancel", {"reason": reason} if reason else {}, as_json)


@click.command("pause")
@click.argument("workflow_id", metavar="ID", type=NAME)
@click.option("--reason", default="", help="Why; it is kept with the event.")
@json_option
def pause_command(workflow_id: str, reason: str, as_json: bool) -> None:
    """Dispatch nothing more; what runs goes on, clocks stand still.

    \b
    Example:
      tailrace pause 0199a0e2-…
    """
    _tell(workflow_id, "pause", {"reason": reason} if reason else {}, as_json)


@click.command("resume")
@click.argument("workflow_id", metavar="ID", type=NAME)
@json_option
def resume_command(workflow_id: str, as_json: bool) -> None:
    """Go on after a pause.

    \b
    Example:
      tailrace resume 0199a0e2-…
    """
    _tell(workflow_id, "resume", {}, as_json)


@click.command("retry")
@click.argument("workflow_id", metavar="ID", type=NAME)
@click.option("--from-stage", metavar="STAGE", help="Run this stage and all that need it again.")
@json_option
def retry_command(workflow_id: str, from_stage: str | None, as_json: bool) -> None:
    """Open a new round of a run that has ended.

    \b
    Example:
      tailrace retry 0199a0e2-… --from-stage validation
    """
    _tell(workflow_id, "retry", {"from_stage": from_stage} if from_stage else {}, as_json)
