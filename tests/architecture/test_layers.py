"""The shape of the code: modules stand alone, processes stay small, secrets are spelled once.

The direction of imports is kept by the contracts in `pyproject.toml` (`lint-imports`).
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "projections", "agents", "gateway", "infra")

#: Imported once before the forks, because they take long; none of them knows the project.
SLOW = (
    "aiohttp.web",
    "asyncpg",
    "click",
    "msgspec",
    "opentelemetry.exporter.otlp.proto.common.trace_encoder",
    "opentelemetry.instrumentation.aiohttp_server",
    "opentelemetry.sdk.trace.export",
    "pytest",
    "redis.asyncio",
    "rich.console",
)

#: What a process may not carry around: nine processes are started on a laptop.
HEAVY = {"aiohttp", "asyncpg", "pytest", "hypothesis", "tests"}
LIGHT_MODULES = (
    "tailrace.agents.runtime",
    "tailrace.core.engine.orchestrator",
    "tailrace.core.redis_backend.store",
    "tailrace.core.redis_backend.tasks",
    "tailrace.infra.processes.orchestrator",
    "tailrace.infra.processes.worker",
)


def sources(suffix: str = ".py") -> Iterator[Path]:
    """Every file of the project's packages; templates are not code of ours."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
            if "templates" not in path.relative_to(ROOT).parts:
                yield path


def modules() -> list[str]:
    """Every module by name."""
    names = []
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(("tailrace", *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return names


def import_each(names: list[str], *preloaded: str) -> dict[str, dict[str, Any]]:
    """Import modules one by one, each on its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("import_each.py")), *preloaded],
        input="\n".join(names),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["module"]: answer for answer in answers}


def test_every_module_imports_alone() -> None:
    """In whatever order they are imported, and without a warning."""
    names = modules()
    found = import_each(names, *SLOW)
    assert sorted(found) == sorted(names)
    assert {name: answer["error"] for name, answer in found.items() if answer["error"]} == {}


def test_workers_and_orchestrators_stay_small() -> None:
    """They neither serve HTTP nor talk to Postgres, so they do not import what does."""
    found = import_each([name for name in LIGHT_MODULES if name in modules()])
    assert {name: answer["error"] for name, answer in found.items() if answer["error"]} == {}
    heavy = {name: sorted(HEAVY & set(answer["imported"])) for name, answer in found.items()}
    assert {name: packages for name, packages in heavy.items() if packages} == {}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Whoever reads one of them can stop somewhere."""
    graph = grimp.build_graph("tailrace", cache_dir=None, exclude_type_checking_imports=True)
    left = {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}
    while ends := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ends}
    while ends := left.keys() - {need for needs in left.values() for need in needs}:
        left = {name: needs for name, needs in left.items() if name not in ends}
    assert sorted(left) == []


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a Python file that is not a docstring, with its line."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.failure(14)
def test_only_one_module_spells_keys() -> None:
    """Nothing else begins a text with the prefix of all keys, in Python or in a script."""
    prefix = re.compile(r"(?<![a-z])tr:")
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        if path.relative_to(ROOT) != Path("core/redis_backend/keys.py")
        for line, text in strings(path)
        if prefix.search(text)
    ]
    found += [str(path.relative_to(ROOT)) for path in sources(".lua") if prefix.search(path.read_text())]
    assert found == []


@pytest.mark.parametrize("module", ["core/workflow", "core/events.py", "core/commands.py"])
def test_the_pure_core_has_no_clock_and_no_chance(module: str) -> None:
    """Nothing in it awaits, and nothing gives another answer the next time."""
    path = ROOT / module
    forbidden = {"asyncio", "time", "random", "uuid", "os", "secrets", "socket", "threading", "subprocess"}
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{file.name}:{node.lineno} awaits"
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name for alias in node.names}, f"{file.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert node.module not in forbidden, f"{file.name}:{node.lineno}"


def test_the_tracing_sdk_stays_in_infra() -> None:
    """Everybody may speak to OpenTelemetry's API; its SDK, exporters and messages are infra's, in one place."""
    inner = re.compile(r"^\s*(?:from|import) opentelemetry\.(?:sdk|exporter|proto|instrumentation)\b", re.MULTILINE)
    users = {path.relative_to(ROOT).as_posix() for path in sources() if inner.search(path.read_text())}
    assert users, "the search finds nothing any more"
    assert all(user.startswith("infra/telemetry/") for user in users), users
