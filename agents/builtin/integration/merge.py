"""Brings a project onto `main` of the run's repository: a feature branch, a commit, a merge, and no half of any.

Every step converges: done again after a crash, or by a second delivery, it finds what is there and goes on. The branch
starts where `main` is when the run first comes here; what others put on `main` afterwards is merged with, never
overwritten. A merge that conflicts is undone before it is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from tailrace.agents.builtin.integration.git import Repository
from tailrace.agents.builtin.outputs import Scaffolded
from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import Workspace

MAIN = "main"
BEFORE = "refs/tailrace/before-merge"
SHOWN_FILES = 50


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `base` is what `main` was before, `merge` what it is now."""

    branch: str
    base: str
    feature: str
    merge: str
    commits: tuple[str, ...]
    files: tuple[str, ...]
    insertions: int
    deletions: int


async def prepare(repository: Repository) -> None:
    """Have a repository with a `main` that has a commit, and nothing unfinished in its working tree."""
    workspace = repository.workspace
    if not workspace.exists(f"{repository.folder}/.git/HEAD"):
        workspace.remove(repository.folder)
        await repository.git("init", "-q", f"--initial-branch={MAIN}", repository.folder, cwd=".")
    # What a killed attempt left: a lock of its git, which is gone by now, and a merge that was under way.
    workspace.remove(f"{repository.folder}/.git/index.lock")
    await repository.run("merge", "--abort")
    if await repository.resolve(MAIN) is None:
        await repository.git("symbolic-ref", "HEAD", f"refs/heads/{MAIN}")
        await repository.git("commit", "-q", "--allow-empty", "-m", "Start")
    await repository.git("reset", "-q", "--hard")
    await repository.git("clean", "-q", "-ffdx")


async def commit(repository: Repository, branch: str, files: Mapping[str, bytes], message: str) -> str:
    """Have `branch` hold exactly `files`; gives its commit. Without a difference there is no new commit."""
    if await repository.resolve(branch) is None:
        await repository.git("branch", branch, MAIN)
    await repository.git("checkout", "-q", "-f", branch)
    await repository.git("rm", "-r", "-q", "--ignore-unmatch", ".")
    await asyncio.to_thread(_write, repository.workspace, repository.folder, files)
    await repository.git("add", "--all", "--force")
    if not (await repository.run("diff", "--cached", "--quiet")).ok:
        await repository.git("commit", "-q", "-m", message)
    return await repository.git("rev-parse", "HEAD")


async def merge(repository: Repository, branch: str, message: str) -> Merged:
    """Merge `branch` into `main`; raises `TaskError` `merge-conflict`, with `main` as it was."""
    await repository.git("checkout", "-q", "-f", MAIN)
    feature = await repository.git("rev-parse", branch)
    if not (await repository.run("merge-base", "--is-ancestor", feature, MAIN)).ok:
        await repository.git("update-ref", BEFORE, MAIN)
        result = await repository.run("merge", "-q", "--no-ff", "-m", message, branch)
        if not result.ok:
            files = await repository.conflicts()
            await repository.run("merge", "--abort")
            await repository.git("reset", "-q", "--hard")
            raise _conflict(branch, files, result.tail(300))
    return await _merged(repository, branch, feature)


async def undo(repository: Repository, merged: Merged) -> bool:
    """Put `main` back to where it was, unless it has moved on since the merge; gives whether it did."""
    parents = (await repository.git("rev-list", "--parents", "-n", "1", MAIN)).split()
    if parents != [merged.merge, merged.base, merged.feature]:
        return False
    await repository.git("checkout", "-q", "-f", MAIN)
    await repository.git("reset", "-q", "--hard", merged.base)
    return True


async def _merged(repository: Repository, branch: str, feature: str) -> Merged:
    now = await repository.git("rev-parse", MAIN)
    base = await repository.resolve(BEFORE) or now
    numbers = await repository.numbers(base, now)
    return Merged(
        branch=branch,
        base=base,
        feature=feature,
        merge=now,
        commits=tuple((await repository.git("rev-list", "--reverse", f"{base}..{now}")).splitlines()),
        files=numbers.files,
        insertions=numbers.insertions,
        deletions=numbers.deletions,
    )


def branch_of(project: Scaffolded) -> str:
    """The branch that a project is committed to."""
    return f"feature/{project.distribution}"


def _write(workspace: Workspace, folder: str, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        workspace.write_bytes(f"{folder}/{path}", data)


def _conflict(branch: str, files: list[str], output: str) -> TaskError:
    if not files:
        return TaskError("git-failed", f"{branch} can't be merged: {output}", details={"output": output})
    return TaskError(
        "merge-conflict",
        f"{branch} conflicts with {MAIN} in {', '.join(files[:5])}",
        details={"branch": branch, "files": files[:SHOWN_FILES], "files_total": len(files)},
    )
