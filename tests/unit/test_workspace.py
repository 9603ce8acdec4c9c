"""The workspace: nothing leaves the folder, nothing that was started in it stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.agents.workspace import Workspace
from tailrace.core.errors import TaskError

FORK = """
import os, subprocess, sys, time
inner = "import os,time; open('inner','w').write(str(os.getpid())); os.rename('inner','inner.pid'); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", inner], start_new_session={session})
while not os.path.exists("inner.pid"): time.sleep(0.005)
{then}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "base", "run-1")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state of another process makes no event
            await asyncio.sleep(0.005)


def inner_pid(workspace: Workspace) -> int:
    return int(workspace.read_text("inner.pid"))


def forking(*, session: bool, then: str) -> list[str]:
    return [sys.executable, "-c", FORK.format(session=session, then=then)]


def test_files_are_written_and_read_back(workspace: Workspace) -> None:
    """Folders are made as needed, and listed without links."""
    workspace.write_text("project/src/a.py", "x = 1\n")
    workspace.write_bytes("project/b.bin", b"\x00\xff")
    workspace.path("project").joinpath("link").symlink_to("b.bin")
    assert workspace.read_text("project/src/a.py") == "x = 1\n"
    assert list(workspace.files("project")) == ["b.bin", "src/a.py"]
    assert workspace.exists("project/b.bin")


@pytest.mark.parametrize("path", ["../other", "/etc/passwd", "a/../../b", "project/../..", "a\0b", ".."])
def test_a_path_that_leads_out_is_refused(workspace: Workspace, path: str) -> None:
    """Neither reading nor writing nor removing nor a working directory leaves the folder."""
    for use in (workspace.read_bytes, workspace.path, lambda p: workspace.write_text(p, "x")):
        with pytest.raises(TaskError) as caught:
            use(path)
        assert caught.value.reason == "path-refused"


@pytest.mark.parametrize("path", ["", ".", "..", "/", "//", "/etc", "../other", "a/../../b", "a/..", "a\0b", "door/x"])
def test_what_can_not_be_removed_is_not_touched(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Nothing but what lies below the root is removable; the deleting calls are disarmed, so a fault harms nobody."""

    def disarmed(*_: object, **__: object) -> None:
        raise AssertionError(f"{path!r} would have been removed")

    monkeypatch.setattr("tailrace.agents.workspace.folder.shutil.rmtree", disarmed)
    monkeypatch.setattr(Path, "unlink", disarmed)
    (workspace.root / "door").symlink_to(tmp_path)
    with pytest.raises(TaskError) as caught:
        workspace.remove(path)
    assert caught.value.reason == "path-refused"


def test_a_link_that_leads_out_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    """A link inside the folder opens nothing outside it; removing the link leaves its target alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (workspace.root / "door").symlink_to(outside)
    (workspace.root / "file").symlink_to(outside / "secret")
    for path in ("door/secret", "file"):
        with pytest.raises(TaskError, match="leads out"):
            workspace.read_bytes(path)
    with pytest.raises(TaskError, match="leads out"):
        workspace.write_text("door/new", "x")
    with pytest.raises(TaskError, match="leads out"):
        workspace.remove("door/secret")
    workspace.remove("door")
    assert (outside / "secret").read_text() == "secret"
    assert not workspace.path("door").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../run", "a\0"])
def test_a_workflow_id_can_not_choose_another_folder(tmp_path: Path, name: str) -> None:
    """Ids come from outside: one that is not a plain name is refused."""
    with pytest.raises(TaskError, match="workspace"):
        Workspace(tmp_path, name)


def test_sizes_are_limited(workspace: Workspace) -> None:
    """A file over the limit is neither written nor read."""
    with pytest.raises(TaskError) as caught:
        workspace.write_bytes("big", b"x" * 11, limit_bytes=10)
    assert caught.value.reason == "file-too-large"
    workspace.write_bytes("big", b"x" * 11)
    with pytest.raises(TaskError, match="10 bytes"):
        workspace.read_bytes("big", limit_bytes=10)
    with pytest.raises(TaskError) as caught:
        workspace.read_text("absent")
    assert caught.value.reason == "file-missing"


async def test_a_program_gives_its_code_and_output(workspace: Workspace) -> None:
    """Both streams are kept apart; the working directory is inside the folder."""
    code = "import os,sys; print(os.getcwd()); print('bad\\0', file=sys.stderr); sys.exit(3)"
    result = await workspace.run([sys.executable, "-c", code], timeout_seconds=30)
    assert result.exit_code == 3
    assert not result.ok
    assert result.stdout == f"{workspace.root}\n"
    assert result.stderr == "bad\ufffd\n"
    assert not result.truncated


async def test_a_signal_is_a_code_above_128(workspace: Workspace) -> None:
    """As a shell has it."""
    result = await workspace.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], timeout_seconds=30)
    assert result.exit_code == 128 + signal.SIGSEGV


async def test_a_missing_program_has_a_name(workspace: Workspace) -> None:
    """It is a typed failure, not a code to be guessed."""
    with pytest.raises(TaskError) as caught:
        await workspace.run(["no-such-program"], timeout_seconds=5)
    assert caught.value.reason == "program-missing"


async def test_secrets_are_not_inherited(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is on the list is passed on; settings of Tailrace are refused even when asked for."""
    for name in ("TAILRACE_REDIS_URL", "PGPASSWORD", "API_TOKEN", "HTTP_PROXY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    code = "import os; print(sorted(os.environ)); print(os.environ['HOME'], os.environ['LC_ALL'], os.environ['MINE'])"
    result = await workspace.run([sys.executable, "-c", code], timeout_seconds=30, env={"MINE": "given"})
    assert f"{workspace.root}/home C.UTF-8 given" in result.stdout
    for name in ("TAILRACE", "PGPASSWORD", "API_TOKEN", "HTTP_PROXY"):
        assert name not in result.stdout
    with pytest.raises(TaskError, match="setting of Tailrace"):
        await workspace.run(["true"], timeout_seconds=5, env={"tailrace_token": "x"})


async def test_output_beyond_the_limit_is_dropped_without_blocking(workspace: Workspace) -> None:
    """Beginning and end are kept of twenty megabytes on each stream."""
    code = (
        "import sys\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.write('begin'); stream.write('x' * 20_000_000); stream.write('end')\n"
    )
    result = await workspace.run([sys.executable, "-c", code], timeout_seconds=60, output_limit_bytes=2000)
    assert result.ok
    assert result.truncated
    for text in (result.stdout, result.stderr):
        assert text.startswith("begin")
        assert text.endswith("end")
        assert "bytes left out" in text
        assert len(text) < 2100


@pytest.mark.failure(26)
@pytest.mark.parametrize("session", [False, True])
async def test_a_timeout_kills_grandchildren(workspace: Workspace, session: bool) -> None:
    """The whole tree goes, also what moved to a session of its own; the failure is typed and may be retried."""
    argv = forking(session=session, then="print('said', flush=True); time.sleep(600)")
    with pytest.raises(TaskError) as caught:
        await workspace.run(argv, timeout_seconds=1.5)
    assert caught.value.reason == "subprocess-timeout"
    assert caught.value.may_retry
    assert caught.value.details["output"] == "said"
    assert not alive(inner_pid(workspace))


@pytest.mark.parametrize("session", [False, True])
async def test_what_a_program_leaves_behind_is_killed(workspace: Workspace, session: bool) -> None:
    """A program that ends while its children go on takes them with it."""
    result = await workspace.run(forking(session=session, then="sys.exit(4)"), timeout_seconds=30)
    assert result.exit_code == 4
    assert not alive(inner_pid(workspace))


async def test_cancellation_kills_and_awaits_the_tree(workspace: Workspace) -> None:
    """When the cancelled call has ended, the processes have as well: also if it is cancelled twice."""
    task = asyncio.create_task(workspace.run(forking(session=True, then="time.sleep(600)"), timeout_seconds=60))
    await wait_until(lambda: workspace.exists("inner.pid"))
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(inner_pid(workspace))


@pytest.mark.parametrize("steps", range(12))
async def test_cancellation_at_any_step_of_starting(workspace: Workspace, steps: int) -> None:
    """However early the cancellation comes, no process stays."""
    before = own_children()
    task = asyncio.create_task(
        workspace.run([sys.executable, "-c", "import time; time.sleep(600)"], timeout_seconds=60)
    )
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert own_children() == before


def own_children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry.parent.name))
    return found


def test_programs_die_with_a_killed_worker(tmp_path: Path) -> None:
    """After kill -9 of the process that called `run`, the program and its children are gone at once."""
    then = forking(session=True, then="time.sleep(600)")
    code = (
        "import asyncio, pathlib\n"
        "from tailrace.agents.workspace import Workspace\n"
        f"workspace = Workspace(pathlib.Path({str(tmp_path)!r}), 'run-1')\n"
        f"asyncio.run(workspace.run({then!r}, timeout_seconds=600))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        marker = tmp_path / "run-1" / "inner.pid"
        give_up_at = time.monotonic() + 20
        while not marker.exists() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        pid = int(marker.read_text())
        assert alive(pid)
        worker.kill()
        worker.wait()
    give_up_at = time.monotonic() + 5
    while alive(pid) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert not alive(pid)


async def test_a_server_is_stopped_politely_then_hard(workspace: Workspace) -> None:
    """With grace a program may clean up; one that ignores the request is killed."""
    polite = (
        "import signal,time,sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(600)"
    )
    process = await workspace.start([sys.executable, "-c", polite])
    await wait_until(lambda: "up" in process.output())
    assert (await process.stop(grace_seconds=10)).exit_code == 7

    stubborn = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = await workspace.start([sys.executable, "-c", stubborn])
    await wait_until(lambda: "up" in process.output())
    assert process.running
    result = await process.stop(grace_seconds=0.2)
    assert result.exit_code == 128 + signal.SIGKILL
    assert not process.running
    assert (await process.stop()).exit_code == result.exit_code
