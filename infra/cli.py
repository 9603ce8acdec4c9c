"""The command line `tailrace`. Commands are loaded when they are used, so that each process imports only its own part."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Final

import click

import tailrace
from tailrace.core.errors import TailraceError

#: Command name -> module of `infra.commands` that defines a click command of that name.
COMMANDS: Final = {
    "up": "up",
    "demo": "demo",
    "gateway": "processes",
    "orchestrator": "processes",
    "projector": "processes",
    "watchdog": "processes",
    "worker": "processes",
    "submit": "runs",
    "list": "runs",
    "show": "runs",
    "events": "runs",
    "watch": "watch",
    "cancel": "control",
    "pause": "control",
    "resume": "control",
    "retry": "control",
    "why": "why",
    "agents": "fleet",
    "stalls": "fleet",
    "doctor": "doctor",
    "replay": "replay",
    "projections": "projections",
    "definitions": "definitions",
}


class _Lazy(click.Group):
    """A group whose commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found = getattr(importlib.import_module(f"tailrace.infra.commands.{module}"), f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(tailrace.__version__, prog_name="tailrace")
def cli() -> None:
    """Pipelines of software agents that cannot get stuck silently.

    \b
    Example:
      tailrace up                     everything on this machine
      tailrace submit app --name calculator-app --requirements "add and divide" --wait
      tailrace why ID                 why a run does not move
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of this project are one message and exit code 1, wrong usage is 2.

    With `--json` the message is a JSON document, too.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        code = cli.main(args=given, prog_name="tailrace", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        if as_json:
            _show_json("usage" if isinstance(error, click.UsageError) else "error", error.format_message())
        else:
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except TailraceError as error:
        if as_json:
            _show_json(error.code, str(error))
        else:
            click.secho(f"Error ({error.code}): ", fg="red", nl=False, err=True)
            click.echo(str(error), err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _show_json(code: str, detail: str) -> None:
    click.echo(json.dumps({"code": code, "detail": detail}, ensure_ascii=False), err=True)


if __name__ == "__main__":
    main()
