"""The provider that ships: plans by looking words up, and writes files from templates. Same brief, same bytes.

Text from outside reaches a file only through an escape for its language: `py` and `toml` make a quoted literal, `md`
escapes marks, and HTML is escaped without being asked to.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from tailrace.agents.builtin.operations import BY_NAME
from tailrace.agents.builtin.outputs import Kind, Plan
from tailrace.agents.builtin.scaffold.names import clean, distribution_of, package_of, title_of
from tailrace.agents.builtin.scaffold.provider import Brief
from tailrace.agents.builtin.scaffold.requirements import understand

VERSION = "0.1.0"
DESCRIPTION_CHARACTERS = 200
COMMON = ("HTML page", "JSON API", "health check")


class TemplateProvider:
    """A `Provider` without a model behind it."""

    name = "templates"

    async def plan(self, brief: Brief) -> Plan:
        """Look up what the words mean."""
        text = brief.requirements.strip() or brief.description
        understood = understand(text, brief.name)
        distribution = distribution_of(brief.name)
        package = package_of(distribution)
        labels = tuple(BY_NAME[name].label.lower() for name in understood.operations)
        safety = ("refuses division by zero",) if {"divide", "modulo"} & set(understood.operations) else ()
        return Plan(
            title=title_of(brief.name),
            distribution=distribution,
            package=package,
            kind=understood.kind,
            version=VERSION,
            description=clean(brief.description or brief.requirements, DESCRIPTION_CHARACTERS),
            features=(*COMMON, *labels, *safety),
            operations=understood.operations,
            files=tuple(sorted(_target(path, package) for path in _templates(understood.kind))),
            assumptions=understood.assumptions,
            provider=self.name,
        )

    async def files(self, plan: Plan) -> Mapping[str, str]:
        """Fill the templates; off the event loop, because compiling them takes a while."""
        return await asyncio.to_thread(render, plan)


def render(plan: Plan) -> dict[str, str]:
    """The project of a plan, by path."""
    from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape  # noqa: PLC0415 - an idle worker does without

    sources = {path: source.read_text(encoding="utf-8") for path, source in _templates(plan.kind).items()}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"py": py, "toml": toml, "md": md, "number": number, "columns": columns}
    values: dict[str, Any] = {"plan": plan, "operations": [BY_NAME[name] for name in plan.operations]}
    return {
        _target(path, plan.package): environment.get_template(path).render(values) if path.endswith(".j2") else source
        for path, source in sources.items()
    }


def py(text: str) -> str:
    """A Python literal, quoted as a formatter would."""
    quote = "'" if '"' in text and "'" not in text else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def toml(text: str) -> str:
    """A TOML basic string: the escapes of JSON are among its own."""
    return json.dumps(text, ensure_ascii=False)


def md(text: str) -> str:
    """Markdown that shows the text as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~-])", r"\\\1", text)


def number(value: float) -> str:
    """A number as Python and people write it: without `.0`."""
    return str(int(value)) if value == int(value) else str(value)


def columns(count: int) -> int:
    """How many buttons stand in a row: as few empty places as possible, and rather more than fewer."""
    return count if count < 3 else max((5, 4, 3), key=lambda row: (-(-count % row), row))


def _templates(kind: Kind) -> dict[str, Traversable]:
    top = resources.files("tailrace.agents.builtin") / "templates"
    found: dict[str, Traversable] = {}
    for layer in ("common", kind):
        found |= dict(_walk(top / layer, ""))
    return found


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        found += _walk(entry, f"{path}/") if entry.is_dir() else [(path, entry)]
    return found


def _target(path: str, package: str) -> str:
    return path.removesuffix(".j2").replace("__package__", package).replace("dot-", ".")
