"""The definitions that come with Tailrace: TOML files beside this module, applied whenever a gateway starts."""

from __future__ import annotations

import tomllib
from importlib import resources

from tailrace.core.store.port import WorkflowStore
from tailrace.core.workflow.definition import Definition, parse_definition


def builtin_definitions() -> list[Definition]:
    """Every definition of the package, by name."""
    folder = resources.files("tailrace.infra").joinpath("definitions")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return [parse_definition(tomllib.loads(file.read_text("utf-8"))) for file in files]


async def put_builtin_definitions(store: WorkflowStore) -> None:
    """Apply them; one that somebody replaced by a newer version of the same name is left alone."""
    known = await store.definitions()
    for definition in builtin_definitions():
        if definition.content_hash() not in known.get(definition.name, ()):
            await store.put_definition(definition)
