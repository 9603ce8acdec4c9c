"""Plays a scenario in a browser. A program of its own, so that browser and driver end with it, whatever happens.

Usage: `drive.py PLAN.json RESULT.json`. The result is written first when the browser has started (`launched`), and again
at the end, with the steps; so whoever reads it can tell a browser that does not work from an app that does not.
Screenshots are taken by finding things as a user of a screen reader does: by their labels and roles.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAUNCH_MS = 30_000
MAX_FAILED_STEPS = 3


class User:
    """Somebody in front of a page."""

    def __init__(self, page: Any, plan: dict[str, Any]) -> None:
        self.page = page
        self.plan = plan
        self.steps: list[dict[str, Any]] = []
        self.problems: list[str] = []
        page.set_default_timeout(plan["step_seconds"] * 1000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        # A refused request is logged by the browser itself; refusals are part of the scenario.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def step(self, name: str, action: Callable[[], None]) -> None:
        """Do something and note how it went. After some failures the rest is left out: each would wait in vain."""
        if sum(not step["passed"] for step in self.steps) >= MAX_FAILED_STEPS:
            return
        started = time.perf_counter()
        try:
            action()
            problem = ""
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a browser is this step's outcome
            problem = str(error).strip() or type(error).__name__
        took = round((time.perf_counter() - started) * 1000, 1)
        self.steps.append(
            {"name": name, "driver": "browser", "passed": not problem, "milliseconds": took, "detail": problem[:300]}
        )

    def screenshot(self, name: str) -> None:
        """Keep what is seen now."""
        self.page.screenshot(path=str(Path(self.plan["shots"], f"{name}.png")), animations="disabled", full_page=True)

    def open(self) -> None:
        """The page shows what it is and that it is healthy."""
        self.page.goto(self.plan["url"] + "/")
        expect(self.page.title() == self.plan["title"], f"the window's title is {self.page.title()!r}")
        heading = self.page.get_by_role("heading", level=1).inner_text()
        expect(heading == self.plan["title"], f"the heading is {heading!r}")
        self.page.get_by_role("status").filter(has_text="Healthy").wait_for()

    def enter(self, label: str, operands: list[float]) -> None:
        """Choose an operation, type the numbers, press the button."""
        self.page.get_by_role("radio", name=label, exact=True).check(force=True)
        fields = ("Number",) if len(operands) == 1 else ("First number", "Second number")
        for field, value in zip(fields, operands, strict=True):
            self.page.get_by_label(field, exact=True).fill(f"{value:g}")
        self.page.get_by_role("button", name="Calculate").click()

    def calculate(self, one: dict[str, Any]) -> None:
        """The result appears."""
        self.enter(one["label"], one["operands"])
        self.page.locator("output").filter(has_text=one["shown"]).wait_for()
        shown = self.page.locator("output").inner_text()
        expect(shown == one["shown"], f"wanted {one['shown']}, saw {shown!r}")

    def divide_by_zero(self) -> None:
        """A message says why there is no result."""
        self.enter(self.plan["zero"], [1, 0])
        self.page.get_by_role("alert").filter(has_text="zero").wait_for()
        self.screenshot("division-by-zero")

    def narrow(self) -> None:
        """On a phone, in the dark, nothing sticks out."""
        self.page.set_viewport_size({"width": 375, "height": 760})
        self.page.emulate_media(color_scheme="dark")
        self.page.reload()
        wide = self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        expect(not wide, "the page is wider than a phone")
        self.screenshot("phone-dark")

    def quiet(self) -> None:
        """No script failed."""
        expect(not self.problems, "; ".join(self.problems[:3]))

    def play(self) -> None:
        """The whole scenario."""
        self.step("open the page", self.open)
        self.step("screenshot", lambda: self.screenshot("page"))
        for one in self.plan["sums"]:
            self.step(f"calculate: {one['operation']}", lambda one=one: self.calculate(one))  # type: ignore[misc]  # bound now
        if self.plan["sums"]:
            self.step("screenshot of a result", lambda: self.screenshot("result"))
        if self.plan["zero"]:
            self.step("division by zero is explained", self.divide_by_zero)
        self.step("fits a phone", self.narrow)
        self.step("no script errors", self.quiet)


def expect(condition: bool, otherwise: str) -> None:
    """Fail the step with a sentence."""
    if not condition:
        raise AssertionError(otherwise)


def main(plan_file: Path, result_file: Path) -> None:
    """Start the browser, play, write down."""
    from playwright.sync_api import Error, sync_playwright  # noqa: PLC0415 - only this program pays for it

    plan: dict[str, Any] = json.loads(plan_file.read_text(encoding="utf-8"))
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=plan["program"], args=plan["arguments"], timeout=LAUNCH_MS
            )
        except Error as error:
            write(result_file, {"launched": False, "reason": str(error)})
            return
        write(result_file, {"launched": True, "version": browser.version, "steps": [], "ended": False})
        user = User(browser.new_page(viewport={"width": 960, "height": 860}, color_scheme="light"), plan)
        user.play()
        write(result_file, {"launched": True, "version": browser.version, "steps": user.steps, "ended": True})
        browser.close()


def write(file: Path, value: dict[str, Any]) -> None:
    """Replace the result."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
