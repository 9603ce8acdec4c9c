"""The groups of `make test` have every test, and each of them once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.run import ROOT, groups


def test_every_file_is_run_once() -> None:
    """But for what is tried on another store as well."""
    found: Counter[Path] = Counter()
    for group in groups():
        if " on " in group.name:
            continue
        mine = [Path(word) for word in group.arguments if not word.startswith("-")]
        others = {Path(word.removeprefix("--ignore=")) for word in group.arguments if word.startswith("-")}
        for place in mine:
            files = [ROOT / place] if place.suffix else (ROOT / place).rglob("test_*.py")
            found.update(
                file for file in files if not {file.relative_to(ROOT), *file.relative_to(ROOT).parents} & others
            )
    assert found == dict.fromkeys((ROOT / "tests").rglob("test_*.py"), 1)
