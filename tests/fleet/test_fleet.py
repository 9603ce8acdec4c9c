"""The fleet, with few runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.infra.parent import PARENT_VARIABLE


@pytest.mark.long
def test_a_fleet_survives_an_orchestrator_and_a_worker() -> None:
    """It says so itself, and by its exit code."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fleet", "--runs", "60"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every run is as it should be" in ended.stdout
