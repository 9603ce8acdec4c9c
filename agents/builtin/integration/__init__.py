"""The integration agent: the project goes to `main` of the run's repository by a merge, and is tested there.

A merge whose tests fail is undone. What `main` holds afterwards is stored as an artifact: the deployment uses that, and
not what the scaffold wrote.
"""

from __future__ import annotations

import asyncio
import uuid

import msgspec

from tailrace.agents.builtin import source
from tailrace.agents.builtin.inputs import stage_output
from tailrace.agents.builtin.integration.git import Repository
from tailrace.agents.builtin.integration.merge import MAIN, Merged, branch_of, commit, merge, prepare, undo
from tailrace.agents.builtin.outputs import Integrated, Scaffolded
from tailrace.agents.builtin.tools import TEST_ENVIRONMENT, run_tool
from tailrace.agents.sdk import Agent, TaskContext, TaskError, TaskInput
from tailrace.agents.workspace import Workspace

FOLDER = "repository"
RESULTS = "integration/tests.xml"
EXPORT = "integration/main.zip"
TEST_SECONDS = 240.0
EARLIEST = 1_000_000_000


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact."""

    merged: Merged
    tests: int
    test_seconds: float


def agent() -> Agent:
    """The agent `integration`."""
    integration = Agent("integration")

    @integration.action("integration")
    async def integrate(context: TaskContext, task: TaskInput) -> Integrated:
        project = stage_output(task, "scaffolding", Scaffolded)
        files = await asyncio.to_thread(source.unpack, await context.get_artifact(project.source))
        await context.progress(0.1, "preparing the repository")
        repository = Repository(context.workspace, FOLDER, seconds_since_epoch=started_at(context.workflow_id))
        await prepare(repository)
        await commit(repository, branch_of(project), files, f"Add {project.distribution} {project.version}")
        await context.progress(0.3, f"merging {branch_of(project)} into main")
        merged = await merge(repository, branch_of(project), f"Merge {branch_of(project)}")
        await context.progress(0.5, "testing what is on main now")
        report = await _test(context.workspace, repository, merged)
        return await _conclude(context, repository, project, report)

    return integration


def started_at(workflow_id: str) -> int:
    """When the run was made, in seconds, from its id: the time of its commits, the same at every delivery."""
    try:
        value = uuid.UUID(workflow_id)
    except ValueError:
        return EARLIEST
    return max((value.int >> 80) // 1000, EARLIEST) if value.version == 7 else EARLIEST


async def files_of(repository: Repository, commit: str) -> dict[str, bytes]:
    """What a commit holds, whatever lies in the working tree."""
    repository.workspace.path(EXPORT).parent.mkdir(parents=True, exist_ok=True)
    await repository.git("archive", "--format=zip", "-o", str(repository.workspace.path(EXPORT)), commit)
    return await asyncio.to_thread(source.unpack, repository.workspace.read_bytes(EXPORT))


async def _test(workspace: Workspace, repository: Repository, merged: Merged) -> Report:
    workspace.remove(RESULTS)
    results = workspace.path(RESULTS)
    results.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("-q", "-p", "no:cacheprovider", "--rootdir=.", f"--junitxml={results}")
    result = await run_tool(
        workspace, "pytest", *arguments, cwd=FOLDER, timeout_seconds=TEST_SECONDS, env=TEST_ENVIRONMENT
    )
    if not result.ok:
        undone = await undo(repository, merged)
        raise TaskError(
            "tests-failed-after-merge",
            f"the tests fail on main after the merge, {'which was undone' if undone else 'which stays'}: {result.tail(300)}",
            details={"branch": merged.branch, "undone": undone, "output": result.tail()},
        )
    tests = workspace.read_text(RESULTS).count("<testcase ")
    return Report(merged=merged, tests=tests, test_seconds=result.duration_seconds)


async def _conclude(context: TaskContext, repository: Repository, project: Scaffolded, report: Report) -> Integrated:
    merged = report.merged
    await context.progress(0.9, f"{len(merged.files)} files changed, {report.tests} tests passed")
    files = await files_of(repository, MAIN)
    archive = await asyncio.to_thread(source.pack, files)
    name = f"{project.distribution}-main.zip"
    stored = await context.put_artifact(archive, name=name, media_type="application/zip")
    data = msgspec.json.format(msgspec.json.encode(report))
    return Integrated(
        branch=merged.branch,
        base_commit=merged.base,
        feature_commit=merged.feature,
        merge_commit=merged.merge,
        commits=len(merged.commits),
        files_changed=len(merged.files),
        insertions=merged.insertions,
        deletions=merged.deletions,
        tests=report.tests,
        repository=FOLDER,
        report=await context.put_artifact(data, name="merge-report.json", media_type="application/json"),
        source=stored,
    )
