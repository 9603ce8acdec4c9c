"""The four checks of a project: each runs a tool in the workspace and gives its findings."""

from __future__ import annotations

import asyncio

import msgspec

from tailrace.agents.builtin.tools import TEST_ENVIRONMENT, run_tool
from tailrace.agents.builtin.validation.findings import (
    CoverageReport,
    Finding,
    from_compileall,
    from_mypy,
    from_pytest,
    from_ruff,
)
from tailrace.agents.workspace import RunResult, Workspace

REPORTS = "validation"
TEST_SECONDS = 240.0
TOOL_SECONDS = 180.0


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found. `coverage_percent` is 0 when tests could not be measured."""

    findings: tuple[Finding, ...]
    tests: int
    coverage_percent: float
    seconds: dict[str, float]


async def check(workspace: Workspace, folder: str) -> Checked:
    """Run all four side by side."""
    root = str(workspace.path(folder))
    workspace.remove(REPORTS)
    workspace.path(REPORTS).mkdir()
    async with asyncio.TaskGroup() as group:
        compiled = group.create_task(_tool(workspace, folder, "compileall", "-q", "-f", "src", "tests"))
        linted = group.create_task(
            # What version control ignores is up to the project; the folder it lies in has no say.
            _tool(
                workspace, folder, "ruff", "check", "--output-format=json", "--no-respect-gitignore", "--no-cache", "."
            )
        )
        typed = group.create_task(
            _tool(workspace, folder, "mypy", "--strict", "--output=json", "--no-error-summary", "src", "tests")
        )
        tested = group.create_task(_test(workspace, folder))
    tests, failures, percent, seconds = tested.result()
    return Checked(
        findings=(
            *from_compileall(compiled.result(), root),
            *from_ruff(linted.result(), root),
            *from_mypy(typed.result(), root),
            *failures,
        ),
        tests=tests,
        coverage_percent=percent,
        seconds={
            "compile": compiled.result().duration_seconds,
            "ruff": linted.result().duration_seconds,
            "mypy": typed.result().duration_seconds,
            "pytest": seconds,
        },
    )


async def _tool(workspace: Workspace, folder: str, module: str, *arguments: str) -> RunResult:
    cache = {"MYPY_CACHE_DIR": str(workspace.path("cache/mypy"))}
    return await run_tool(workspace, module, *arguments, cwd=folder, timeout_seconds=TOOL_SECONDS, env=cache)


async def _test(workspace: Workspace, folder: str) -> tuple[int, list[Finding], float, float]:
    junit, coverage = f"{REPORTS}/tests.xml", f"{REPORTS}/coverage.json"
    result = await run_tool(
        workspace,
        "pytest",
        *("-q", "-p", "no:cacheprovider", "-p", "pytest_cov", "--rootdir=.", "-o", "junit_family=xunit1"),
        f"--junitxml={workspace.path(junit)}",
        # The threshold is the policy's, not the project's: its own must not end the run with another error.
        *("--cov=src", "--cov-branch", "--cov-fail-under=0", f"--cov-report=json:{workspace.path(coverage)}"),
        cwd=folder,
        timeout_seconds=TEST_SECONDS,
        env={**TEST_ENVIRONMENT, "COVERAGE_FILE": str(workspace.path(f"{REPORTS}/coverage.data"))},
    )
    written = workspace.read_bytes(junit) if workspace.exists(junit) else None
    tests, findings = from_pytest(result, written, str(workspace.path(folder)))
    return tests, findings, _percent(workspace, coverage), result.duration_seconds


def _percent(workspace: Workspace, coverage: str) -> float:
    if not workspace.exists(coverage):
        return 0.0
    report = msgspec.json.decode(workspace.read_bytes(coverage), type=CoverageReport)
    return round(report.totals.percent_covered, 2)
