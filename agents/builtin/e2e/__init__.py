"""The end-to-end agent: starts the app and uses it as a person would, over HTTP always and in a browser if there is one.

The output says which of the two took part, and why not if not: a run without a browser is not passed off as one with.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tailrace.agents.builtin.e2e import browser, http_user
from tailrace.agents.builtin.e2e.scenario import Scenario, Step, scenario_of
from tailrace.agents.builtin.inputs import params, stage_output
from tailrace.agents.builtin.outputs import BrowserUse, Explored, Scaffolded
from tailrace.agents.builtin.running import start_app
from tailrace.agents.builtin.source import materialize
from tailrace.agents.sdk import Agent, ArtifactRef, TaskContext, TaskError, TaskInput

SHOWN_STEPS = 10


class E2eParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the stage: whether a browser is used if there is one, demanded, or left out; and its patience."""

    browser: Literal["auto", "required", "off"] = "auto"
    step_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)] = 15.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact."""

    drivers: tuple[str, ...]
    browser: BrowserUse
    steps: tuple[Step, ...]


def agent() -> Agent:
    """The agent `e2e`."""
    e2e = Agent("e2e")

    @e2e.action("e2e_testing")
    async def e2e_testing(context: TaskContext, task: TaskInput) -> Explored:
        wish = params(task, E2eParams)
        project = stage_output(task, "scaffolding", Scaffolded)
        folder = await materialize(context, project.source, project.folder)
        context.workspace.remove(browser.FOLDER)
        await context.progress(0.1, "starting the app")
        app = await start_app(context.workspace, project.package, path=f"{folder}/src", cwd=f"{browser.FOLDER}/app")
        try:
            report = await _explore(context, scenario_of(project, app.ready.url), wish)
        finally:
            await app.process.stop()
        return await _conclude(context, report)

    return e2e


async def _explore(context: TaskContext, scenario: Scenario, wish: E2eParams) -> Report:
    await context.progress(0.3, "using the app over HTTP")
    steps = await http_user.play(scenario)
    found = (
        BrowserUse(state="off", reason="left out by the stage's parameters")
        if wish.browser == "off"
        else browser.find_browser()
    )
    drivers = ["http"]
    if found.state == "used":
        await context.progress(0.4, "using the app in a browser")
        played = await browser.play(context.workspace, scenario, found, step_seconds=wish.step_seconds)
        found = played.use
        steps += played.steps
        drivers += ["browser"] if found.state == "used" else []
    if found.state in {"absent", "broken"}:
        context.log.warning("no browser took part: it is %s (%s)", found.state, found.reason)
        if wish.browser == "required":
            raise TaskError(
                f"browser-{found.state}", f"a browser is required: {found.reason}", details=msgspec.to_builtins(found)
            )
    return Report(drivers=tuple(drivers), browser=found, steps=tuple(steps))


async def _conclude(context: TaskContext, report: Report) -> Explored:
    await context.progress(0.9, f"{len(report.steps)} steps taken")
    shots = tuple([await _screenshot(context, name) for name in _screenshots(context)])
    data = msgspec.json.format(msgspec.json.encode(report))
    stored = await context.put_artifact(data, name="e2e-report.json", media_type="application/json")
    failed = [step for step in report.steps if not step.passed]
    if failed:
        raise _failure(failed, report, stored)
    return Explored(
        drivers=report.drivers, browser=report.browser, steps=len(report.steps), screenshots=shots, report=stored
    )


def _screenshots(context: TaskContext) -> list[str]:
    shots = f"{browser.FOLDER}/shots"
    return list(context.workspace.files(shots)) if context.workspace.exists(shots) else []


async def _screenshot(context: TaskContext, name: str) -> ArtifactRef:
    data: bytes = context.workspace.read_bytes(f"{browser.FOLDER}/shots/{name}")
    return await context.put_artifact(data, name=f"screenshot-{name}", media_type="image/png")


def _failure(failed: list[Step], report: Report, stored: ArtifactRef) -> TaskError:
    first = failed[0]
    return TaskError(
        "e2e-failed",
        f"{len(failed)} of {len(report.steps)} steps failed; the first: {first.name} ({first.driver}): {first.detail}",
        details={
            "failed": msgspec.to_builtins(failed[:SHOWN_STEPS]),
            "drivers": list(report.drivers),
            "browser": msgspec.to_builtins(report.browser),
            "report": msgspec.to_builtins(stored),
        },
    )
