"""Programs written in Python, run by this environment's interpreter in a workspace."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence

from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import RunResult, Workspace

#: Plugins that happen to be installed beside the agents have no say in a project's tests.
TEST_ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def require(module: str) -> None:
    """Raise `TaskError` `tool-missing` where the tool is not installed beside the agents."""
    if importlib.util.find_spec(module) is None:
        raise TaskError(
            "tool-missing",
            f"{module} is not installed here: install tailrace with the extra `agents`",
            details={"tool": module},
        )


async def run_tool(
    workspace: Workspace,
    module: str,
    *arguments: str,
    cwd: str,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
) -> RunResult:
    """`python -m module …` in a folder of the workspace; raises `TaskError` `tool-missing` or `subprocess-timeout`."""
    require(module.partition(".")[0])
    argv: Sequence[str] = (sys.executable, "-m", module, *arguments)
    return await workspace.run(
        argv, timeout_seconds=timeout_seconds, cwd=cwd, env=env, output_limit_bytes=2 * 1024 * 1024
    )
