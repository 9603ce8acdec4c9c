"""`tailrace definitions`: pipelines as TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec

from tailrace.core.errors import InvalidInput
from tailrace.core.workflow.definition import Definition, parse_definition
from tailrace.infra.client import path
from tailrace.infra.commands.options import NAME, gateway, json_option, print_json


@click.group("definitions")
def definitions_command() -> None:
    """Look at pipelines, and apply your own.

    \b
    Example:
      tailrace definitions validate release.toml
    """


@definitions_command.command("list")
@json_option
def list_definitions(as_json: bool) -> None:
    """Every definition that a gateway knows.

    \b
    Example:
      tailrace definitions list
    """
    page = gateway().get("/definitions")
    if as_json:
        print_json(page)
        return
    for item in page["items"]:
        click.echo(f"{item['name']:<20} {item['hash'][:12]}  {len(item['versions'])} versions")


@definitions_command.command("show")
@click.argument("name", type=NAME)
@json_option
def show_definition(name: str, as_json: bool) -> None:
    """One definition, stage by stage.

    \b
    Example:
      tailrace definitions show app
    """
    document = gateway().get(path("definitions", name))
    if as_json:
        print_json(document)
        return
    definition = document.get("definition", document)
    for stage in definition["stages"]:
        needs = ", ".join(stage.get("needs", ())) or "-"
        undone = f", undone by {stage['compensate']['agent']}" if "compensate" in stage else ""
        click.echo(f"{stage['name']:<20} agent {stage['agent']:<14} needs {needs}{undone}")


@definitions_command.command("validate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def validate_definition(file: Path, as_json: bool) -> None:
    """Check a file without a gateway; everything that is wrong is listed.

    \b
    Example:
      tailrace definitions validate release.toml
    """
    definition = _read(file)
    name, stages, content_hash = definition.name, len(definition.stages), definition.content_hash()
    if as_json:
        print_json({"valid": True, "name": name, "stages": stages, "hash": content_hash})
    else:
        click.echo(f"{name} is valid: {stages} stages, {content_hash[:12]}")


@definitions_command.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def apply_definition(file: Path, as_json: bool) -> None:
    """Make a definition known; runs that are open keep the version they began with.

    \b
    Example:
      tailrace definitions apply release.toml
    """
    definition = _read(file)
    document = gateway().put(path("definitions", definition.name), msgspec.to_builtins(definition))
    if as_json:
        print_json(document)
    else:
        click.echo(f"{definition.name} {definition.content_hash()[:12]}")


def _read(file: Path) -> Definition:
    try:
        document: Any = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} is not TOML: {error}") from error
    try:
        return parse_definition(document)
    except InvalidInput as error:
        places = "".join(f"\n  {problem.pointer}: {problem.detail}" for problem in error.errors)
        raise click.ClickException(f"{file}: {error}{places}") from error
