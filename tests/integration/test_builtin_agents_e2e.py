"""The end-to-end agent: it notices what is broken, and says which drivers took part."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.agents.builtin.e2e.browser import PROGRAMS, SETTING, find_browser
from tests.integration.builtin_run import Run


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """A run with a project; nothing of it is left running."""
    monkeypatch.delenv(SETTING, raising=False)
    run = Run(tmp_path)
    await run.play("initialization", "scaffolding")
    yield run
    assert run.processes() == []


@pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="no browser is installed")
async def test_a_browser_uses_the_page(run: Run) -> None:
    """Each operation is clicked and read, the refusal is seen, and pictures are kept."""
    explored = await run.play("e2e_testing", browser="required")
    assert explored["drivers"] == ("http", "browser")
    assert explored["browser"]["state"] == "used"
    assert {shot["name"] for shot in explored["screenshots"]} == {
        "screenshot-page.png",
        "screenshot-result.png",
        "screenshot-division-by-zero.png",
        "screenshot-phone-dark.png",
    }
    for shot in explored["screenshots"]:
        assert (await run.artifact(shot)).startswith(b"\x89PNG")
    report = json.loads(await run.artifact(explored["report"]))
    assert {"http", "browser"} == {step["driver"] for step in report["steps"]}
    assert all(step["passed"] for step in report["steps"])


@pytest.mark.skipif(not any(map(shutil.which, PROGRAMS)), reason="no browser is installed")
async def test_a_page_that_does_not_work_fails_in_the_browser_only(run: Run) -> None:
    """The API is fine, the button is dead: HTTP alone would not have seen it."""
    run.replace("project/src/calculator_app/static/app.js", 'method: "POST"', 'method: "PUT"')
    error = await run.fails("e2e_testing", step_seconds=3)
    assert (error.reason, error.may_retry) == ("e2e-failed", False)
    assert {step["driver"] for step in error.details["failed"]} == {"browser"}


async def test_without_a_browser_it_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HTTP takes part always; the output says why nothing else did."""
    monkeypatch.setenv("PATH", str(tmp_path))
    explored = await run.play("e2e_testing")
    assert explored["drivers"] == ("http",)
    assert explored["browser"]["state"] == "absent"
    assert "chromium" in explored["browser"]["reason"]
    assert (await run.fails("e2e_testing", browser="required")).reason == "browser-absent"


async def test_a_broken_browser_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found and does not start: that is another thing than none being there."""
    program = run.folder / "not-a-browser"
    program.write_text("#!/bin/sh\necho no display anywhere >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv(SETTING, str(program))
    explored = await run.play("e2e_testing")
    assert explored["drivers"] == ("http",)
    assert explored["browser"]["state"] == "broken"
    assert "no display anywhere" in explored["browser"]["reason"]
    assert (await run.fails("e2e_testing", browser="required")).reason == "browser-broken"
    monkeypatch.setenv(SETTING, "/nowhere/chromium")
    assert find_browser().state == "broken"


async def test_wrong_arithmetic_is_noticed(run: Run) -> None:
    """The step that failed is named, with what was seen instead."""
    run.replace("project/src/calculator_app/operations.py", "return a + b", "return a - b")
    error = await run.fails("e2e_testing", browser="off")
    (step,) = error.details["failed"]
    assert step["name"] == "calculate: add"
    assert "-1" in step["detail"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def announce(", "raise SystemExit('no luck today')\n\n\ndef announce(", "no luck today"),
        ('"url": server.url', '"link": server.url', "ready file"),
        ('"url": server.url', '"url": "http://0.0.0.0:1"', "this machine only"),
    ],
)
async def test_an_app_that_does_not_start_says_why(run: Run, old: str, new: str, message: str) -> None:
    """The failure carries its last output, and nothing is left running."""
    run.replace("project/src/calculator_app/cli.py", old, new)
    error = await run.fails("e2e_testing", browser="off")
    assert error.reason == "app-not-started"
    assert message in error.message
