"""Installations for the acceptance tests: one that tests share, and new ones for tests that break theirs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.figures import FIGURES, measured
from tests.acceptance.installation import Installation
from tests.acceptance.scripted import AGENTS, chain

New = Callable[..., Installation]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def acceptance_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below pytest's own folder, with a name as short as sockets need it."""
    return tmp_path_factory.mktemp("a")


def _new_folder(parent: Path) -> Path:
    folder = parent / str(next(_numbers))
    folder.mkdir()
    return folder


@pytest.fixture
def folder(acceptance_folder: Path) -> Path:
    """An empty folder for one installation."""
    return _new_folder(acceptance_folder)


@pytest.fixture(scope="module")
def new_installation(acceptance_folder: Path) -> Iterator[New]:
    """Makes installations that are started at once and gone at the end of the module."""
    with ExitStack() as stack:

        def new(**settings: object) -> Installation:
            made = Installation(_new_folder(acceptance_folder), **settings)  # type: ignore[arg-type]  # passed on
            stack.enter_context(made)
            measured(f"ready after {made.started_seconds:.1f} s")
            return made

        yield new


@pytest.fixture(scope="session")
def shared(acceptance_folder: Path) -> Iterator[Installation]:
    """An installation with a simulated agent, for tests that leave it as they found it."""
    with Installation(_new_folder(acceptance_folder), agents=AGENTS) as installation:
        measured(f"ready after {installation.started_seconds:.1f} s")
        installation.apply(chain("trial", 2))
        yield installation


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured: figures are for reading, no test asserts speed."""
    for line in FIGURES:
        terminalreporter.write_line(f"measured: {line}")
