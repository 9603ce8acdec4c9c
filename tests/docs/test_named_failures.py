"""The page of failures: every row is there once, names real causes, and lists exactly the tests that are marked with it."""

from __future__ import annotations

import re

import pytest

from tailrace.projections.watchdog.diagnosis import CAUSES
from tests.support import named

FAILURES = [str(number) for number in range(1, 34)]
HOLES = [f"H{number}" for number in range(1, 39)]
EXPERIMENTS = [f"({letter})" for letter in "abcdefg"]

#: What has no test, and why not.
UNTESTED = {
    "(a)": "its speed: `make bench` measures it, and no test asserts one",
}

#: Tests with a number in their name, with the decorators above them.
NAMED = re.compile(r"((?:^@.*\n(?:^[ )].*\n)*)*)^(?:async )?def test_([fh])(\d\d)_(\w+)", re.MULTILINE)

PAGE = named.PAGE.read_text()
ROWS = {row.key: row for row in named.rows(PAGE)}


@pytest.fixture(scope="module")
def proofs() -> named.Proofs:
    return named.found()


def test_every_row_is_there_once() -> None:
    """All failures, holes and experiments, in their order."""
    assert [row.key for row in named.rows(PAGE)] == [*FAILURES, *HOLES, *EXPERIMENTS]


def test_every_row_has_a_test(proofs: named.Proofs) -> None:
    """But for those that are said to have none; and no test is marked with what is no row."""
    assert sorted(ROWS.keys() - proofs.keys()) == sorted(UNTESTED)
    assert proofs.keys() <= ROWS.keys()


def test_the_page_lists_the_tests(proofs: named.Proofs) -> None:
    """Those that are marked with a row, and no others: `make reference` writes them."""
    for key, row in ROWS.items():
        assert row.tests == (named.links(proofs[key]) if key in proofs else "no test"), key


def test_every_test_is_where_its_link_leads() -> None:
    """The file is there, and has it."""
    linked = re.findall(r"\[`(\w+)`\]\((\.\./tests/[\w/.]+)\)", PAGE)
    assert len(linked) > 100
    for name, path in linked:
        assert re.search(rf"\bdef {name}\(", (named.PAGE.parent / path).read_text()), f"{path} has no {name}"


def test_names_and_marks_agree() -> None:
    """A test that is called `test_f07_…` or `test_h07_…` bears that mark, among others."""
    named_tests = 0
    for path in (named.ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        for marks, kind, number, name in NAMED.findall(text):
            mark = f"failure({int(number)})" if kind == "f" else f'hole("H{int(number)}")'
            assert f"@pytest.mark.{mark}\n" in marks, f"{path.name}: {kind}{number}_{name} is not marked {mark}"
            named_tests += 1
    assert named_tests > 80


def test_causes_are_those_of_the_diagnosis() -> None:
    """What the page says that `why` says, it can say."""
    causes = {cause for key in FAILURES for cause in re.findall(r"`([a-z-]+)`", ROWS[key].cells[2])}
    assert len(causes) > 10
    assert causes <= CAUSES.keys()
