"""What the documentation says can be typed: every command is known with its options, and the reference is up to date."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tailrace.infra.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(console|sh|text)\n(.*?)```", re.DOTALL)
TAILRACE = re.compile(r"(?:\.venv/bin/)?tailrace +(?P<rest>[^\n`&|;]+)")
MAKE = re.compile(r"^\$? ?make (?P<target>[a-z-]+)", re.MULTILINE)


def documented() -> Iterator[tuple[str, list[str]]]:
    """Every `tailrace …` of the pages, in blocks and in the text, with the words behind it."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for match in TAILRACE.finditer(text):
            words = shlex.split(match["rest"].split("#")[0].rstrip(" .,:)"), posix=True)
            if words and words[0] in cli.list_commands(click.Context(cli)):
                yield page.name, words


@pytest.mark.failure(33)
@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(*found, id=" ".join(found[1])[:60]) for found in documented()]
)
def test_command_is_understood(page: str, words: list[str]) -> None:
    """Its name and its options exist; values are not looked at."""
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest.pop(0))
        assert found is not None, f"{page}: tailrace {' '.join(words)}"
        command = found
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in {*known, "--help"}, f"{page}: tailrace {' '.join(words)}"


def test_some_are_documented() -> None:
    """The search finds the pages' commands: an empty list would pass every test above."""
    assert len(list(documented())) > 20


def test_make_targets_exist() -> None:
    """Every `make target` of the pages is one of the Makefile's."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {match["target"] for page in PAGES for match in MAKE.finditer(page.read_text())}
    assert {"demo", "test", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.failure(33)
def test_reference_is_what_the_code_says() -> None:
    """Pages under docs/reference are written from the code, and not by hand."""
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
