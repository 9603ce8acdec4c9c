"""Installations for the acceptance tests: those that tests share, and folders for those of one test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.figures import FIGURES, measured
from tests.acceptance.installation import Installation
from tests.acceptance.scripted import AGENTS, LONG, chain

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def acceptance_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below pytest's own folder, with a name as short as sockets need it."""
    return tmp_path_factory.mktemp("a")


def new_folder(parent: Path) -> Path:
    folder = parent / str(next(_numbers))
    folder.mkdir()
    return folder


@pytest.fixture
def folder(acceptance_folder: Path) -> Path:
    """An empty folder for one installation."""
    return new_folder(acceptance_folder)


@pytest.fixture(scope="session")
def shared(acceptance_folder: Path) -> Iterator[Installation]:
    """For tests that leave it as they found it, but for workers, which may die."""
    with started(new_folder(acceptance_folder), agents=AGENTS) as installation:
        installation.apply(chain("trial", 2))
        yield installation


@pytest.fixture(scope="module")
def installation(acceptance_folder: Path) -> Iterator[Installation]:
    """With all built-in agents, as `tailrace up` is without options."""
    with started(new_folder(acceptance_folder)) as installation:
        yield installation


@pytest.fixture(scope="session")
def tormented(acceptance_folder: Path) -> Iterator[Installation]:
    """For tests that stop and kill whatever it consists of, and end with all of it running again."""
    with started(new_folder(acceptance_folder), agents=AGENTS) as installation:
        installation.apply(chain("trial", 2))
        installation.apply(chain("long", LONG))
        yield installation


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Installation]:
    """An installation, and how long it took to be ready."""
    with Installation(folder, **settings) as installation:
        measured(f"`tailrace up` is ready after {installation.started_seconds:.1f} s")
        yield installation


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured: figures are for reading, no test asserts speed."""
    for line in FIGURES:
        terminalreporter.write_line(f"measured: {line}")
