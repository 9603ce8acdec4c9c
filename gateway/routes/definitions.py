"""`/definitions`: pipelines. A definition never changes; a new one of the same name is used by runs that start later."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from tailrace.core.errors import FieldError, InvalidInput
from tailrace.core.workflow.definition import Definition, Pipeline, parse_definition
from tailrace.gateway.requests import body_of
from tailrace.gateway.responses import document, items
from tailrace.gateway.schemas import parse
from tailrace.gateway.services import services_of


class DefinitionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A definition's name, the hash of its newest version, and of all, oldest first."""

    name: str
    hash: str
    versions: Sequence[str]


class DefinitionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of a definition, whole."""

    name: str
    hash: str
    versions: Sequence[str]
    agents: Sequence[str]
    definition: Definition


class ValidatedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid definition would be known by."""

    valid: bool
    name: str
    hash: str
    agents: Sequence[str]


def routes(prefix: str) -> Sequence[web.RouteDef]:
    """The routes of this module."""
    return [
        web.get(f"{prefix}/definitions", list_definitions),
        web.post(f"{prefix}/definitions/validate", validate),
        web.get(f"{prefix}/definitions/{{name}}", show),
        web.put(f"{prefix}/definitions/{{name}}", put),
    ]


async def list_definitions(request: web.Request) -> web.Response:
    """Every definition."""
    services = services_of(request)
    async with services.store_deadline():
        known = await services.store.definitions()
    return items(
        [DefinitionSummary(name=name, hash=hashes[-1], versions=hashes) for name, hashes in sorted(known.items())]
    )


async def show(request: web.Request) -> web.Response:
    """The newest version of one definition."""
    services = services_of(request)
    async with services.store_deadline():
        pipeline = await services.store.latest(request.match_info["name"])
        versions = (await services.store.definitions()).get(pipeline.definition.name, [pipeline.hash])
    return document(_document(pipeline, versions))


async def put(request: web.Request) -> web.Response:
    """Keep a definition: 201 for a new version, 200 for one that is known."""
    services, name = services_of(request), request.match_info["name"]
    definition = parse_definition(parse(await body_of(request)))
    if definition.name != name:
        detail = f"the definition is called {definition.name!r}, not {name!r}"
        raise InvalidInput(detail, [FieldError(pointer="/name", detail=detail)])
    async with services.store_deadline():
        before = (await services.store.definitions()).get(name, [])
        pipeline = await services.store.put_definition(definition)
        versions = (await services.store.definitions()).get(name, [pipeline.hash])
    return document(_document(pipeline, versions), status=200 if pipeline.hash in before else 201)


async def validate(request: web.Request) -> web.Response:
    """Check a definition without keeping it."""
    pipeline = Pipeline(parse_definition(parse(await body_of(request))))
    name = pipeline.definition.name
    return document(ValidatedDocument(valid=True, name=name, hash=pipeline.hash, agents=pipeline.agents))


def _document(pipeline: Pipeline, versions: Sequence[str]) -> DefinitionDocument:
    return DefinitionDocument(
        name=pipeline.definition.name,
        hash=pipeline.hash,
        versions=versions,
        agents=pipeline.agents,
        definition=pipeline.definition,
    )
