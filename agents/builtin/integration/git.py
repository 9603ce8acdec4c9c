"""Git in a workspace: a fixed identity, no configuration of the machine or the user, no hooks, no prompts.

Times of commits are given by the caller, so the same content on the same history gives the same commit.
"""

from __future__ import annotations

import msgspec

from tailrace.agents.sdk import TaskError
from tailrace.agents.workspace import RunResult, Workspace

SECONDS = 60.0
AUTHOR = "Tailrace"
EMAIL = "tailrace@localhost"
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.autocrlf": "false",
    "core.quotePath": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "gc.auto": "0",
    "merge.conflictStyle": "merge",
    "protocol.ext.allow": "never",
}


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What a change comes to."""

    files: tuple[str, ...]
    insertions: int
    deletions: int


class Repository:
    """The repository in the folder `folder` of a workspace."""

    def __init__(self, workspace: Workspace, folder: str, *, seconds_since_epoch: int) -> None:
        self.workspace = workspace
        self.folder = folder
        date = f"{seconds_since_epoch} +0000"
        self._env = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CEILING_DIRECTORIES": str(workspace.root),
            "GIT_AUTHOR_NAME": AUTHOR,
            "GIT_AUTHOR_EMAIL": EMAIL,
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": AUTHOR,
            "GIT_COMMITTER_EMAIL": EMAIL,
            "GIT_COMMITTER_DATE": date,
        }

    async def run(self, *arguments: str, cwd: str | None = None) -> RunResult:
        """Run git whatever it answers; raises `TaskError` `git-missing`."""
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        argv = ["git", *settings, *arguments]
        try:
            return await self.workspace.run(argv, timeout_seconds=SECONDS, cwd=cwd or self.folder, env=self._env)
        except TaskError as error:
            if error.reason == "program-missing":
                raise TaskError("git-missing", "git is not installed here", details=error.details) from error
            raise

    async def git(self, *arguments: str, cwd: str | None = None) -> str:
        """Run git and give its output; raises `TaskError` `git-failed`."""
        result = await self.run(*arguments, cwd=cwd)
        if not result.ok:
            what = f"git {' '.join(arguments[:2])}"
            raise TaskError(
                "git-failed", f"{what}: {result.tail(300)}", retryable=True, details={"output": result.tail()}
            )
        return result.stdout.strip()

    async def resolve(self, name: str) -> str | None:
        """The commit that a name stands for; None if there is none."""
        result = await self.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return result.stdout.strip() if result.ok else None

    async def conflicts(self) -> list[str]:
        """Files that a merge left undecided."""
        return (await self.git("diff", "--name-only", "--diff-filter=U")).splitlines()

    async def numbers(self, before: str, after: str) -> Numbers:
        """What changed between two commits. Binary files count as files only."""
        rows = [row.split("\t", 2) for row in (await self.git("diff", "--numstat", before, after)).splitlines()]
        return Numbers(
            files=tuple(path for _, _, path in rows),
            insertions=sum(int(added) for added, _, _ in rows if added.isdecimal()),
            deletions=sum(int(removed) for _, removed, _ in rows if removed.isdecimal()),
        )
