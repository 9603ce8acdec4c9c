"""Finds a browser, and plays a scenario in it by a program of its own (`drive.py`), guarded like all others."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tailrace.agents.builtin.e2e.drive import MAX_FAILED_STEPS
from tailrace.agents.builtin.e2e.scenario import Scenario, Step
from tailrace.agents.builtin.outputs import BrowserUse
from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import Workspace

SETTING = "TAILRACE_CHROMIUM"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
)
FOLDER = "e2e"
SECONDS = 90.0
"""For all that goes well; steps that wait in vain are added."""
REASON_CHARACTERS = 400


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """How it went: what became of the browser, and what was tried in it."""

    use: BrowserUse
    steps: tuple[Step, ...] = ()


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    launched: bool
    reason: str = ""
    version: str = ""
    ended: bool = False
    steps: tuple[Step, ...] = ()


def find_browser() -> BrowserUse:
    """The browser to use: the one that `TAILRACE_CHROMIUM` names, else the first on the path."""
    if importlib.util.find_spec("playwright") is None:
        return BrowserUse(state="absent", reason="playwright is not installed here")
    chosen = os.environ.get(SETTING, "")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            return BrowserUse(
                state="broken", reason=f"{SETTING} names a program that can't be run", program=chosen[:200]
            )
        return BrowserUse(state="used", program=found)
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        return BrowserUse(state="absent", reason=f"none of {', '.join(PROGRAMS)} is on the path, {SETTING} is not set")
    return BrowserUse(state="used", program=found)


async def play(workspace: Workspace, scenario: Scenario, browser: BrowserUse, *, step_seconds: float) -> Played:
    """Play the scenario, waiting up to `step_seconds` for whatever should appear.

    A browser that does not work is said to be `broken`, with what it said.
    """
    plan, result = f"{FOLDER}/plan.json", f"{FOLDER}/result.json"
    workspace.path(f"{FOLDER}/shots").mkdir(parents=True, exist_ok=True)
    workspace.write_bytes(
        plan, msgspec.json.encode(_plan(workspace, scenario, browser) | {"step_seconds": step_seconds})
    )
    script = str(Path(__file__).with_name("drive.py"))
    argv = [sys.executable, "-I", script, str(workspace.path(plan)), str(workspace.path(result))]
    with _short_path_to(workspace.path("tmp")) as temporary:
        try:
            ended = await workspace.run(
                argv, timeout_seconds=SECONDS + MAX_FAILED_STEPS * step_seconds, env={"TMPDIR": temporary}
            )
            said = ended.tail(REASON_CHARACTERS)
        except TaskError as error:
            if error.reason != "subprocess-timeout":
                raise
            said = error.message
    return _played(workspace, result, said, browser)


@contextlib.contextmanager
def _short_path_to(folder: Path) -> Iterator[str]:
    """A link to the folder, with a short path: Chromium puts a socket there, whose path may have 107 bytes at most."""
    beside = Path(tempfile.mkdtemp(prefix="tr-"))
    link = beside / "t"
    try:
        link.symlink_to(folder)
        yield str(link)
    finally:
        link.unlink(missing_ok=True)
        beside.rmdir()


def _plan(workspace: Workspace, scenario: Scenario, browser: BrowserUse) -> dict[str, Any]:
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return {
        **msgspec.to_builtins(scenario),
        "program": browser.program,
        # As root, Chromium refuses to start with its sandbox; it opens nothing but the app on this machine.
        "arguments": [*ARGUMENTS, *root],
        "shots": str(workspace.path(f"{FOLDER}/shots")),
    }


def _played(workspace: Workspace, file: str, said: str, browser: BrowserUse) -> Played:
    if not workspace.exists(file):
        return Played(use=_broken(browser, said))
    result = msgspec.json.decode(workspace.read_bytes(file), type=_Result)
    if not result.launched:
        return Played(use=_broken(browser, result.reason))
    steps = result.steps
    if not result.ended:
        cut = Step(name="play to the end", driver="browser", passed=False, milliseconds=0.0, detail=said)
        steps = (*steps, cut)
    use = BrowserUse(state="used", reason=f"version {result.version}", program=browser.program)
    return Played(use=use, steps=steps)


def _broken(browser: BrowserUse, said: str) -> BrowserUse:
    """What the browser itself wrote counts most: it stands after `[err]` in what the driver reports."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.partition("[err]")[2].strip() for line in lines if "[err]" in line]
    text = " ".join((*lines[:1], *own[-3:]))
    reason = "".join(sign if sign.isprintable() else " " for sign in text)[:REASON_CHARACTERS]
    return BrowserUse(state="broken", reason=reason or "it ended without a word", program=browser.program)
