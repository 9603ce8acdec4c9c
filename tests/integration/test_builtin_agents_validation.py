"""The validation agent: what is wrong is found, named, counted against the policy, and kept as a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.builtin.tools import require
from tailrace.agents.sdk import TaskError
from tests.integration.builtin_run import Run


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    """A run with a project."""
    run = Run(tmp_path)
    await run.play("initialization", "scaffolding")
    return run


def found(error: TaskError, tool: str) -> list[dict[str, Any]]:
    """The findings of one tool in a failure."""
    return [finding for finding in error.details["findings"] if finding["tool"] == tool]


async def test_a_file_that_is_no_python(run: Run) -> None:
    """Every tool that stumbles over it says where; the report has it all."""
    run.replace("project/src/calculator_app/operations.py", "def add(", "def add((")
    error = await run.fails("validation")
    assert (error.reason, error.may_retry) == ("policy-violated", False)
    (finding,) = found(error, "compile")
    assert finding["file"] == "src/calculator_app/operations.py"
    assert finding["code"] == "SyntaxError"
    assert finding["line"] > 0
    assert {"ruff", "mypy"} <= {finding["tool"] for finding in error.details["findings"]}
    report = json.loads(await run.artifact(error.details["report"]))
    assert report["violations"] == error.details["violations"]
    assert len(report["checked"]["findings"]) == error.details["findings_total"]


async def test_each_tool_has_its_say(run: Run) -> None:
    """A wrong type, an unused import, a failing test: one finding each, with place and code."""
    source = "project/src/calculator_app/errors.py"
    run.replace(source, '"""What goes', 'import os\n"""What goes')
    run.replace("project/src/calculator_app/operations.py", "return a + b", 'return "5"')
    error = await run.fails("validation")
    assert any(finding["code"] == "F401" and finding["line"] == 1 for finding in found(error, "ruff"))
    assert any(finding["code"] == "return-value" for finding in found(error, "mypy"))
    assert any("test_examples[add" in finding["message"] for finding in found(error, "pytest"))
    assert all(finding["code"] == "test-failure" for finding in found(error, "pytest"))


async def test_code_that_no_test_reaches(run: Run) -> None:
    """Coverage below the threshold is a violation of its own, without any finding."""
    body = "".join(f"    if value == {number}:\n        return {number * 2}\n" for number in range(300))
    path = run.workspace / "project/src/calculator_app/untested.py"
    path.write_text(f'"""Nobody calls this."""\n\n\ndef double(value: int) -> int:\n{body}    return 0\n')
    error = await run.fails("validation")
    assert error.details["findings_total"] == found(error, "ruff").__len__()
    assert any(violation.startswith("coverage is") for violation in error.details["violations"])
    assert 0 < error.details["coverage_percent"] < 80


async def test_the_policy_can_be_changed_in_single_values(run: Run) -> None:
    """A stage's parameters allow some findings, or ask for more coverage; the rest stays as shipped."""
    run.replace("project/src/calculator_app/errors.py", '"""What goes', 'import os\n"""What goes')
    output = await run.play("validation", policy={"max_findings": {"ruff": 5}})
    assert 1 <= output["findings"]["ruff"] <= 5
    assert output["policy"] == {"coverage_percent": 80.0, "compile": 0, "ruff": 5, "mypy": 0, "pytest": 0}
    error = await run.fails("validation", policy={"coverage_percent": 100})
    assert any("at least 100 % are asked for" in violation for violation in error.details["violations"])


async def test_a_project_without_tests_is_not_fine(run: Run) -> None:
    """Nothing failed, because nothing was tried: that is said."""
    for path in (run.workspace / "project/tests").glob("test_*.py"):
        path.unlink()
    error = await run.fails("validation")
    assert [finding["code"] for finding in found(error, "pytest")] == ["tool-failed"]


def test_a_missing_tool_is_named() -> None:
    """It is the environment that is broken, not the project."""
    with pytest.raises(TaskError) as caught:
        require("no_such_tool")
    assert (caught.value.reason, caught.value.details) == ("tool-missing", {"tool": "no_such_tool"})
