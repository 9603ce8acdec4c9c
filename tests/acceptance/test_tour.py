"""The tour of the documentation, typed as it stands there: every line of its console blocks, on one installation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.acceptance.installation import Installation

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)

#: Run by others: the two commands of the README by whoever checks a release, `up` by every test here.
ELSEWHERE = {"make demo", "make test", ".venv/bin/tailrace up"}


def lines() -> list[str]:
    """Each line that a reader is told to type, once."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [
        line.removeprefix("$ ")
        for page in pages
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return [line for line in dict.fromkeys(found) if line not in ELSEWHERE]


@pytest.mark.failure(33)
@pytest.mark.parametrize("line", lines())
def test_line_of_the_tour(installation: Installation, line: str) -> None:
    """It ends well."""
    program, *arguments = shlex.split(line)
    assert program == ".venv/bin/tailrace"
    done = installation.cli(*arguments, seconds=240)
    assert done.code == 0, done
