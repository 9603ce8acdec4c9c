"""A test that hangs fails with its name and with where it stood; one that can't be interrupted ends the whole process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.support import ceiling

ceiling.CEILING_SECONDS, ceiling.AGAIN_SECONDS, ceiling.END_SECONDS = 1.0, 4.0, 5.0
pytest_plugins = ["tests.support.ceiling"]
"""

TESTS = """
import asyncio, time
from pathlib import Path

async def never_comes():
    await asyncio.Event().wait()

async def starts_it():
    async with asyncio.TaskGroup() as group:
        group.create_task(never_comes())

def test_waits():
    asyncio.run(starts_it())

def test_next():
    Path("reached").touch()

def test_can_not_be_interrupted():
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass
"""


def test_what_hangs_is_named_and_ended(tmp_path: Path) -> None:
    """The first one fails at its ceiling and the next one runs; the last one takes the process with it."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_hanging.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "test_hanging.py::test_waits has not ended after 1 s" in done.stderr
    assert "in never_comes" in done.stderr
    assert (tmp_path / "reached").exists()
    assert "test_hanging.py::test_can_not_be_interrupted has not ended" in done.stderr
    assert "Timeout" in done.stderr
