"""The integration agent: it merges, never overwrites, and leaves no half of a merge behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tailrace.agents.builtin.integration import started_at
from tailrace.agents.builtin.source import pack, unpack
from tailrace.agents.sdk import TaskError
from tailrace.core.ids import new_workflow_id
from tests.integration.builtin_run import Run


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    """A run with a project."""
    run = Run(tmp_path)
    await run.play("initialization", "scaffolding")
    return run


def git(run: Run, *arguments: str) -> str:
    """What somebody else does in the run's repository."""
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    argv = ["git", *identity, *arguments]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        argv, cwd=run.workspace / "repository", env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def somebody_changes(run: Run, file: str, text: str) -> str:
    """Another commit on main; gives it."""
    git(run, "checkout", "-q", "main")
    (run.workspace / "repository" / file).write_text(text)
    git(run, "add", "-A")
    git(run, "commit", "-q", "-m", "Something else")
    return git(run, "rev-parse", "HEAD")


async def test_a_project_is_merged_into_main(run: Run) -> None:
    """A branch with one commit, a merge of two parents, numbers that fit, and the tests passed there."""
    integrated = await run.play("integration")
    assert integrated["branch"] == "feature/calculator-app"
    assert (integrated["commits"], integrated["files_changed"], integrated["deletions"]) == (2, 20, 0)
    assert integrated["insertions"] == run.stages["scaffolding"]["lines"]
    parents = git(run, "rev-list", "--parents", "-n", "1", "main").split()
    assert parents == [integrated["merge_commit"], integrated["base_commit"], integrated["feature_commit"]]
    assert git(run, "status", "--porcelain") == ""
    assert git(run, "log", "-1", "--format=%an <%ae>") == "Tailrace <tailrace@localhost>"
    assert unpack(await run.artifact(integrated["source"])) == unpack(
        await run.artifact(run.stages["scaffolding"]["source"])
    )


async def test_a_second_delivery_changes_nothing(run: Run, tmp_path: Path) -> None:
    """The same commits again, also from an empty folder, and also after a crash in the middle of a merge."""
    first = await run.play("integration")
    again = await run.play("integration")
    same = ("branch", "base_commit", "feature_commit", "merge_commit", "commits", "files_changed", "insertions")
    assert [again[field] for field in same] == [first[field] for field in same]
    git(run, "reset", "-q", "--hard", first["base_commit"])
    git(run, "merge", "-q", "--no-commit", "--no-ff", first["branch"])
    (run.workspace / "repository/.git/index.lock").touch()
    assert (await run.play("integration"))["merge_commit"] == first["merge_commit"]


async def test_what_others_put_on_main_stays(run: Run) -> None:
    """A change elsewhere is merged with, and what is deployed holds both."""
    await run.play("integration")
    theirs = somebody_changes(run, "NOTES.md", "mine\n")
    run.requirements = "add, divide and multiply"
    integrated = await run.play("initialization", "scaffolding", "integration")
    assert integrated["base_commit"] == theirs
    files = unpack(await run.artifact(integrated["source"]))
    assert files["NOTES.md"] == b"mine\n"
    assert b"def multiply" in files["src/calculator_app/operations.py"]


async def test_a_conflict_is_reported_and_undone(run: Run) -> None:
    """Two changed the same line: the files are named, main is as it was."""
    await run.play("integration")
    theirs = somebody_changes(run, "README.md", "# Something quite different\n")
    run.requirements = "subtract"
    error = await run.fails_after("initialization", "scaffolding", "integration")
    assert (error.reason, error.may_retry) == ("merge-conflict", False)
    assert error.details["files"] == ["README.md"]
    assert git(run, "rev-parse", "main") == theirs
    assert git(run, "status", "--porcelain") == ""


async def test_a_merge_whose_tests_fail_is_undone(run: Run) -> None:
    """Each side alone is fine, together they are not: main goes back to where it was."""
    await run.play("integration")
    test = "from calculator_app.operations import OPERATIONS\n\n\ndef test_two() -> None:\n    assert len(OPERATIONS) == 2\n"
    theirs = somebody_changes(run, "tests/test_two.py", test)
    run.requirements = "add, subtract and divide"
    error = await run.fails_after("initialization", "scaffolding", "integration")
    assert error.reason == "tests-failed-after-merge"
    assert error.details["undone"] is True
    assert "test_two" in error.details["output"]
    assert git(run, "rev-parse", "main") == theirs


async def test_without_git_it_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the environment that lacks something, not the project."""
    monkeypatch.setenv("PATH", str(tmp_path))
    error = await run.fails("integration")
    assert error.reason == "git-missing"


async def test_settings_of_the_machine_have_no_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a hook nor a signature that the user of the worker is used to."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    integrated = await run.play("integration")
    monkeypatch.undo()
    assert git(run, "log", "-1", "--format=%an", integrated["merge_commit"]) == "Tailrace"


def test_commits_have_the_time_of_the_run() -> None:
    """From a time-ordered id; a fixed one for ids that have none."""
    assert started_at(new_workflow_id(1_800_000_000_000_000)) == 1_800_000_000
    assert started_at("run-1") == started_at("6f1c7f2e-6f7a-5a0d-9f0e-2d9d3c3b7a51")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ".git/hooks/post-merge", "a/.GIT/config"])
def test_an_archive_can_not_reach_out(path: str) -> None:
    """Neither out of the project nor into git's own files."""
    with pytest.raises(TaskError) as caught:
        unpack(pack({path: b"x"}))
    assert caught.value.reason == "source-invalid"


def test_a_damaged_archive_is_refused() -> None:
    """By its own reason."""
    with pytest.raises(TaskError) as caught:
        unpack(b"nonsense")
    assert caught.value.reason == "source-invalid"
