"""Which tests stand behind which row of docs/failures.md: the marks `failure`, `hole` and `experiment` of the suite.

`python -m tests.support.named` writes the last column of the page; with `--list` it prints what it found, as JSON. What is
found is what pytest collects for `make test`: a mark on something that is no test, or is never run, does not count.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "failures.md"

#: A mark, and how its argument is spelled in the first column.
MARKS: Final[Mapping[str, str]] = {"failure": "{}", "hole": "{}", "experiment": "({})"}
_ROW: Final = re.compile(r"\| (?P<key>\d+|H\d+|\([a-z]\)) \| (?P<rest>.*) \|")

#: Tests by row: each as its file, from the root, and its name.
Proofs = dict[str, list[tuple[str, str]]]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of one of the tables; `tests` is its last column as it stands there."""

    key: str
    cells: Sequence[str]
    tests: str


class _Collector:
    """A plugin that remembers what the marks of collected tests say."""

    def __init__(self) -> None:
        self.proofs: Proofs = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if any(item.get_closest_marker(name) for name in ("skip", "xfail")):
                continue
            place = (str(item.path.relative_to(ROOT)), item.name.partition("[")[0])
            for mark, spelling in MARKS.items():
                for marker in item.iter_markers(mark):
                    (argument,) = marker.args
                    places = self.proofs.setdefault(spelling.format(argument), [])
                    if place not in places:
                        places.append(place)


def found() -> Proofs:
    """The tests of the suite by row, as a pytest of its own collects them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.named", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    proofs: Proofs = msgspec.json.decode(done.stdout.rpartition("\n=\n")[2], type=Proofs)
    return {key: sorted(places) for key, places in proofs.items()}


def rows(text: str) -> Iterator[Row]:
    """The rows of the page."""
    for line in text.splitlines():
        if match := _ROW.fullmatch(line):
            *cells, tests = match["rest"].split(" | ")
            yield Row(key=match["key"], cells=cells, tests=tests)


def links(places: Sequence[tuple[str, str]]) -> str:
    """The last column for these tests."""
    folder = PAGE.parent
    return ", ".join(f"[`{name}`]({os.path.relpath(ROOT / path, folder)})" for path, name in places)


def written(text: str, proofs: Proofs) -> str:
    """The page with the tests of each row; a row without any stays as it is."""
    lines = []
    for line in text.splitlines():
        match = _ROW.fullmatch(line)
        if match and (places := proofs.get(match["key"])):
            line = f"| {match['key']} | {match['rest'].rpartition(' | ')[0]} | {links(places)} |"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


def _main() -> int:
    if "--list" not in sys.argv:
        PAGE.write_text(written(PAGE.read_text(), found()))
        return 0
    collector = _Collector()
    outcome = pytest.main(
        ["--collect-only", "-q", "-m", "not long", "-p", "no:cacheprovider", "tests"], plugins=[collector]
    )
    print("\n=")  # noqa: T201  # what follows is for a program
    print(json.dumps(collector.proofs))  # noqa: T201
    return int(outcome)


if __name__ == "__main__":
    sys.exit(_main())
