# ruff: noqa: RUF001 - the signs of arithmetic are meant
"""What the scaffold agent understands, and what it makes of names from outside."""

from __future__ import annotations

import ast
import keyword
import tomllib
from typing import Any

import pytest

from tailrace.agents.builtin.operations import BASIC, CATALOGUE
from tailrace.agents.builtin.outputs import Plan
from tailrace.agents.builtin.scaffold.names import clean, distribution_of, package_of, title_of
from tailrace.agents.builtin.scaffold.provider import Brief
from tailrace.agents.builtin.scaffold.requirements import understand
from tailrace.agents.builtin.scaffold.template_provider import TemplateProvider, columns, render
from tailrace.agents.sdk import TaskError

HOSTILE = [
    'x"; import os',
    "<script>alert(1)</script>",
    "a'b\"c\\d",
    "{{ 7 * 7 }}{% raw %}",
    "line\nbreak\r\x00\x1b[31m",
    '"""\n"""',
    "\u202egnp.exe",
    "../../etc/passwd",
    "計算機",
    "json",
    "class",
    "123",
    "",
    "x" * 5000,
    "\\N{BULLET} %s {0} $HOME `id`",
]


@pytest.mark.parametrize(
    ("text", "operations"),
    [
        ("A calculator that can add and subtract", "add subtract"),
        ("Only addition and subtraction, please", "add subtract"),
        ("plus and minus", "add subtract"),
        ("a page with + and -", "add subtract"),
        ("supports +, -, * and /", "add subtract multiply divide"),
        ("+ − × ÷", "add subtract multiply divide"),
        ("Plus, minus, times, divided? Division!", "add subtract multiply divide"),
        ("- add\n- subtract\n- multiply", "add subtract multiply"),
        ("the sum and the quotient of two numbers", "add divide"),
        ("add the two numbers", "add"),
        ("modulo, power and square root", "modulo power square_root"),
        ("squares a number", "square"),
        ("square roots", "square_root"),
        ("20 percent of a price: percentage", "percentage"),
        ("add, subtract, but no multiplication or division", "add subtract"),
        ("add and divide. Division by zero is refused.", "add divide"),
        ("add and subtract without division", "add subtract"),
        ("Factorials and absolute values", "absolute factorial"),
        ("Add a page to multiply numbers", "multiply"),
        ("multiply, with 100 % coverage", "multiply"),
        ("Build a calculator", " ".join(BASIC)),
        ("A calculator that refuses division by zero", " ".join(BASIC)),
        ("A calculator without division", "add subtract multiply"),
        ("basic arithmetic in the browser", " ".join(BASIC)),
    ],
)
def test_a_calculator_gets_what_is_named(text: str, operations: str) -> None:
    """Exactly the operations in the text, in the order of the catalogue."""
    understood = understand(text)
    assert understood.kind == "calculator"
    assert " ".join(understood.operations) == operations


@pytest.mark.parametrize(
    "text",
    [
        "Add a page that shows the weather",
        "A web page with a health endpoint",
        "Show my books",
        "Fix the login button",
        "An easy-to-use, powerful app and/or dashboard with 80 % coverage",
        "A form for power users with square buttons",
    ],
)
def test_other_text_makes_a_service(text: str) -> None:
    """Everyday words are not taken for arithmetic."""
    understood = understand(text)
    assert (understood.kind, understood.operations) == ("service", ())


def test_the_name_helps() -> None:
    """A calculator app whose requirements speak of looks only is a calculator still."""
    assert understand("A page with a dark mode", "calculator-app").operations == BASIC


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "requirements-empty"),
        (" \n\t", "requirements-empty"),
        ("asdf qwer zxcv", "requirements-unclear"),
        ("???", "requirements-unclear"),
        ("12345", "requirements-unclear"),
        ("the", "requirements-unclear"),
        ("a calculator without addition, subtraction, multiplication and division", "requirements-unclear"),
    ],
)
def test_nothing_to_build_is_refused(text: str, reason: str) -> None:
    """No run builds something that nobody asked for; trying again would not help."""
    with pytest.raises(TaskError) as caught:
        understand(text)
    assert (caught.value.reason, caught.value.may_retry) == (reason, False)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_become_plain_words(name: str) -> None:
    """Distribution and package are identifiers that hide no module; titles are one printable line."""
    distribution = distribution_of(name)
    package = package_of(distribution)
    assert package.isidentifier()
    assert package.isascii()
    assert package == package.lower()
    assert not keyword.iskeyword(package)
    assert package not in {"json", "class", "os"}
    assert title_of(name).isprintable()
    assert 1 <= len(title_of(name)) <= 60


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("requirements", ["add and divide", "a page"])
async def test_hostile_text_is_harmless_in_every_file(name: str, requirements: str) -> None:
    """Python parses and holds the text as a literal only; TOML parses; HTML shows it as text."""
    provider = TemplateProvider()
    brief = Brief(name=name, description=f"{name} </script><img src=x onerror=alert(1)>", requirements=requirements)
    plan = await provider.plan(brief)
    files = await provider.files(plan)
    assert sorted(files) == list(plan.files)
    for path, text in files.items():
        if path.endswith(".py"):
            assert not _calls_import_os(ast.parse(text)), path
    module = ast.parse(files[f"src/{plan.package}/__init__.py"])
    assert _assigned(module, "TITLE") == plan.title
    assert tomllib.loads(files["pyproject.toml"])["project"]["description"] == plan.description
    page = files[f"src/{plan.package}/static/index.html"]
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert "{{" not in page or "{{" in name


async def test_the_same_brief_gives_the_same_bytes() -> None:
    """So a redelivered task writes what it wrote before."""
    provider = TemplateProvider()
    brief = Brief(name="calc", description="", requirements="add")
    assert render(await provider.plan(brief)) == render(await provider.plan(brief))


async def test_a_description_stands_in_for_requirements() -> None:
    """Whichever of the two says what to build."""
    plan = await TemplateProvider().plan(Brief(name="x", description="add numbers", requirements=" "))
    assert plan.operations == ("add",)


async def test_every_operation_has_a_template() -> None:
    """What can be planned can be written."""
    text = ", ".join(operation.label for operation in CATALOGUE) + ", percentage, modulo, power, square"
    plan: Plan = await TemplateProvider().plan(Brief(name="x", description="", requirements=text))
    assert plan.operations == tuple(operation.name for operation in CATALOGUE)
    source = render(plan)["src/x/operations.py"]
    names = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert names >= set(plan.operations)


def test_rows_of_buttons() -> None:
    """As few empty places as possible."""
    assert [columns(count) for count in range(1, 12)] == [1, 2, 3, 4, 5, 3, 4, 4, 3, 5, 4]


def test_clean_text_is_bounded() -> None:
    """Also where it consists of marks only."""
    assert clean("a\u200b\n\n b", 10) == "a b"
    assert clean("x" * 100, 10) == "x" * 9 + "…"


def _assigned(module: ast.Module, name: str) -> Any:
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{name} is not assigned")


def _calls_import_os(module: ast.Module) -> bool:
    # The test of the command uses `os` for its environment; nothing else has a reason to.
    imported = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    return "os" in imported and "subprocess" not in imported
