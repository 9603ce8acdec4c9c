"""Writes docs/reference from the code; with `--check` it only says whether the files are up to date (exit 1 if not)."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from tailrace.core.commands import COMMANDS as ENGINE_COMMANDS
from tailrace.core.events import EVENTS
from tailrace.core.workflow.definition import CompensationDefinition, Definition, RetryPolicy, StageDefinition
from tailrace.gateway.app import PREFIX
from tailrace.gateway.routes import (
    agents,
    artifacts,
    commands,
    definitions,
    events,
    figures,
    health,
    stalls,
    workflows,
)
from tailrace.infra.cli import COMMANDS, cli

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- written by `make reference`; do not edit -->\n"

ENVIRONMENT = {
    "TAILRACE_URL": "the gateway that client commands talk to (default: a `tailrace up` here, else http://127.0.0.1:8080)",
    "TAILRACE_TOKEN": "bearer token: sent by client commands, demanded by a gateway",
    "TAILRACE_DATA_DIR": "data of a deployment on this machine (default `.tailrace`)",
    "TAILRACE_REDIS_URL": "Redis or Valkey to use instead of an embedded one",
    "TAILRACE_POSTGRES_URL": "Postgres to use instead of an embedded one",
    "TAILRACE_NAMESPACE": "which namespace of Redis (default `tailrace`)",
    "TAILRACE_PARTITIONS": "partitions of a new namespace, fixed from then on (default 8; 2 with an embedded Redis)",
    "TAILRACE_REDIS_SERVER": "server program for the embedded Redis",
    "TAILRACE_POSTGRES_BIN": "folder of `initdb` and `postgres` for the embedded Postgres",
    "TAILRACE_CHROMIUM": "browser for the e2e agent",
    "TAILRACE_LOG_TAIL": "archived events that stay in each partition's log in Redis (default 10000)",
    "TAILRACE_RUN_DAYS": "how long a run stays in Redis after its end, in days; its history stays in Postgres (default 7)",
    "TAILRACE_REPAIRS": "what the watchdog mends by itself: `redispatch,timers` (default), one of them, or `none`",
    "TAILRACE_WEBHOOKS": "URLs, with blanks between, to which the watchdog posts notices of faults and failed runs",
    "TAILRACE_WEBHOOK_SECRET": "the key with which they are signed (16 characters or more)",
    "TAILRACE_WEBHOOKS_PRIVATE": "`1` if webhooks may be at addresses that are not public (default `0`)",
    "TAILRACE_NOTICE_COMMAND": "a program, with its arguments, that gets each notice as JSON on standard input",
    "TAILRACE_NOTICE_QUIET_SECONDS": "for how long a fault must not come back to be over (default 180)",
    "TAILRACE_LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR (default INFO)",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where traces go, over OTLP/HTTP; nothing is sent without it",
}


def main() -> None:
    """Write or check every page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, lines in (("cli", _cli()), ("http", _http()), ("settings", _settings()), ("events", _events())):
        text = NOTE + "\n".join(lines).rstrip() + "\n"
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if not check:
                FOLDER.mkdir(exist_ok=True)
                path.write_text(text)
    if check and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run `make reference`")


def _cli() -> Iterator[str]:
    yield "# Command line\n"
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from _command(f"tailrace {name}", command)


def _command(title: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=title, max_content_width=110, terminal_width=110)
    yield f"## `{title}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(f"{title} {name}", inner)


def _http() -> Iterator[str]:
    yield "# HTTP\n\n| route | does |\n|---|---|"
    modules = (workflows, commands, events, artifacts, agents, stalls, definitions)
    for route in [
        *(route for module in modules for route in module.routes(PREFIX)),
        *health.routes(),
        *figures.routes(),
    ]:
        found: Any = route
        summary = (inspect.getdoc(found.handler) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        summary = (
            summary
            or f"Tell the run to {found.path.rpartition('/')[2]}; answers with the run, or 409 where its state forbids it."
        )
        yield f"| `{found.method} {found.path}` | {summary} |"


def _settings() -> Iterator[str]:
    yield "# Settings\n\n| variable | meaning |\n|---|---|"
    for name, meaning in ENVIRONMENT.items():
        yield f"| `{name}` | {meaning} |"
    yield "\n# Definitions\n\nA TOML file, or the same as JSON.\n"
    for cls in (Definition, StageDefinition, RetryPolicy, CompensationDefinition):
        yield from _struct(cls)


def _events() -> Iterator[str]:
    yield "# Events\n"
    for cls in EVENTS.values():
        yield from _struct(cls)
    yield "# Commands\n"
    for command in ENGINE_COMMANDS.values():
        yield from _struct(command)


def _struct(cls: type[msgspec.Struct]) -> Iterator[str]:
    yield f"## {cls.__name__}\n\n{inspect.getdoc(cls)}\n"
    fields = msgspec.structs.fields(cls)
    if fields:
        yield "| field | type | default |\n|---|---|---|"
    hints = inspect.get_annotations(importlib.import_module(cls.__module__).__dict__[cls.__name__])
    for field in fields:
        kind = str(hints.get(field.name, field.type)).removesuffix(" | UnsetType").replace("|", "\\|")
        required = field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
        default = "required" if required else _default(field)
        yield f"| `{field.name}` | `{kind}` | {default} |"
    yield ""


def _default(field: Any) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "left out" if value is msgspec.UNSET else f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    main()
