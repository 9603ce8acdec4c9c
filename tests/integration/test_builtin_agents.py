"""The five built-in agents: all seven stages with real programs, and what they need from each other."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.builtin import NAMES, load
from tailrace.agents.builtin.web import request
from tailrace.core.codec import encode_value
from tailrace.core.errors import NotFound
from tests.integration.builtin_run import AGENTS, Run

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A run of its own; nothing of it is left running."""
    run = Run(tmp_path)
    yield run
    await run.close()
    assert run.processes() == []


async def test_requirements_become_an_app_that_runs(run: Run) -> None:
    """Seven stages, each output small, and at the end an app that divides and refuses to divide by zero."""
    run.requirements = "A calculator that can add, subtract, multiply and divide. Division by zero is refused."
    for stage in AGENTS:
        encode_value(await run.play(stage), stage)
    stages = run.stages
    assert stages["initialization"]["operations"] == ("add", "subtract", "multiply", "divide")
    assert stages["validation"]["coverage_percent"] >= 80
    assert sum(stages["validation"]["findings"].values()) == 0
    assert "http" in stages["e2e_testing"]["drivers"]
    assert stages["integration"]["files_changed"] == stages["scaffolding"]["files"]
    assert stages["integration"]["tests"] == stages["validation"]["tests"]
    assert stages["monitoring"]["verdict"] == "healthy"
    assert stages["monitoring"]["availability"] == 1.0
    assert 0 < stages["monitoring"]["p50_ms"] <= stages["monitoring"]["p95_ms"]
    url = stages["deployment"]["url"]
    assert await calculate(url, "divide", 9, 2) == (200, 4.5)
    status, error = await calculate(url, "divide", 1, 0)
    assert (status, error["code"]) == (400, "division-by-zero")
    assert (await request(url)).content_type.startswith("text/html")


async def calculate(url: str, operation: str, a: float, b: float) -> tuple[int, Any]:
    """The status, and the result or the error."""
    body = {"operation": operation, "a": a, "b": b}
    answer = await request(f"{url}/api/calculate", method="POST", body=body)
    return answer.status, answer.json().get("result", answer.json().get("error"))


async def test_an_app_has_only_what_was_asked_for(run: Run) -> None:
    """Requirements that name two operations give two, in the page and in the API; and no integration is needed."""
    run.requirements = "A web calculator with addition and subtraction"
    deployed = await run.play("initialization", "scaffolding", "deployment")
    answer = await request(f"{deployed['url']}/api/operations")
    assert [known["name"] for known in answer.json()["operations"]] == ["add", "subtract"]
    page = (await request(deployed["url"])).text()
    assert page.count('name="operation"') == 2
    assert (await calculate(deployed["url"], "divide", 1, 2))[0] == 400


@pytest.mark.parametrize("name", ['x"; import os', "<b>it's</b> \\ {{ 7 }} %s"])
async def test_a_hostile_name_makes_a_sound_project(run: Run, name: str) -> None:
    """The name is shown as it is, and changes nothing else."""
    run.name, run.requirements = name, "A page with a health check"
    await run.play("initialization", "scaffolding", "validation")
    explored = await run.play("e2e_testing", browser="off")
    assert explored["browser"]["state"] == "off"


@pytest.mark.failure(30)
@pytest.mark.parametrize("stage", [stage for stage in AGENTS if stage != "initialization"])
async def test_a_stage_says_which_input_is_missing(run: Run, stage: str) -> None:
    """Nothing is started, no path is guessed."""
    error = await run.fails(stage)
    assert (error.reason, error.may_retry) == ("input-missing", False)
    assert error.details["stage"] in AGENTS
    run.stages = {name: {"nonsense": 1} for name in AGENTS}
    assert (await run.fails(stage)).reason == "input-invalid"


async def test_stages_may_have_other_names(run: Run) -> None:
    """A pipeline of one's own says by a parameter which stage is meant."""
    run.stages["design"] = await run.play("initialization")
    del run.stages["initialization"]
    assert (await run.fails("scaffolding")).reason == "input-missing"
    assert (await run.play("scaffolding", inputs={"initialization": "design"}))["files"] == 20


@pytest.mark.failure(30)
@pytest.mark.hole("H36")
async def test_the_project_follows_the_run_to_another_machine(run: Run, tmp_path: Path) -> None:
    """A worker that has never seen the run's folder takes the project from the artifact."""
    await run.play("initialization", "scaffolding")
    shutil.rmtree(tmp_path / "workspaces")
    run.context = type(run.context)(tmp_path)
    assert (await run.play("e2e_testing", browser="off"))["steps"] > 5


async def test_writing_a_project_again_leaves_nothing_of_the_old_one(run: Run) -> None:
    """A redelivered task gives the same bytes in a clean folder."""
    first = await run.play("initialization", "scaffolding")
    (run.workspace / "project" / "stray.py").write_text("import nonsense\n")
    assert await run.play("scaffolding") == first
    assert not (run.workspace / "project" / "stray.py").exists()


async def test_unknown_parameters_are_refused(run: Run) -> None:
    """A typing error in a definition is named, not ignored."""
    await run.play("initialization", "scaffolding")
    wrong: dict[str, dict[str, Any]] = {"validation": {"polcy": {}}, "e2e_testing": {"browser": "firefox"}}
    for stage, params in wrong.items():
        assert (await run.fails(stage, **params)).reason == "params-invalid"
    assert (await run.fails("validation", policy={"coverage": 1})).reason == "policy-invalid"


def test_agents_are_loaded_by_name() -> None:
    """Five of them, each with its name."""
    assert [load(name).name for name in NAMES] == list(NAMES)
    with pytest.raises(NotFound):
        load("os")
