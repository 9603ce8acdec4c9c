"""The command hook: the notice on standard input, little around it, and an end of its time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from tailrace.core.events import Failure
from tailrace.core.notices import FailedRun, Notice
from tailrace.infra.notice_command import OUTPUT_LIMIT_BYTES, NoticeCommand
from tests.support.waiting import eventually

NOTICE = Notice(
    id="run-1:7", kind="run-failed", at=7, run=FailedRun(workflow_id="run-1", error=Failure(reason="broken"))
)


def command(code: str, *args: str, timeout_seconds: float = 20.0) -> NoticeCommand:
    """A hook that runs Python."""
    argv = [sys.executable, "-c", code, *args]
    return NoticeCommand(argv, source="urn:x", namespace="test", timeout_seconds=timeout_seconds)


async def test_it_gets_the_notice_and_little_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same document as a webhook; no shell between, and nothing secret in its environment."""
    monkeypatch.setenv("TAILRACE_WEBHOOK_SECRET", "a secret")
    monkeypatch.setenv("TAILRACE_REDIS_URL", "redis://:password@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    got = tmp_path / "got"
    code = (
        "import json, os, sys\n"
        "json.dump([json.load(sys.stdin), dict(os.environ), sys.argv[2:]], open(sys.argv[1], 'w'))\n"
    )
    assert await command(code, str(got), "$HOME; echo").send(NOTICE) is None
    document, environment, args = json.loads(got.read_text())
    assert (document["id"], document["type"]) == ("run-1:7", "dev.tailrace.notice.run-failed")
    assert document["data"]["error"]["reason"] == "broken"
    assert args == ["$HOME; echo"]
    assert (environment["TAILRACE_NOTICE_ID"], environment["TAILRACE_NOTICE_KIND"]) == ("run-1:7", "run-failed")
    assert "PATH" in environment
    assert not {"TAILRACE_WEBHOOK_SECRET", "TAILRACE_REDIS_URL", "AWS_SECRET_ACCESS_KEY"} & environment.keys()


async def test_one_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """Also where both ignore a polite signal."""
    pids = tmp_path / "pids"
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
        "print('here I hang', flush=True)\n"
        "time.sleep(600)\n"
    )
    began = time.monotonic()
    problem = await command(code, str(pids), timeout_seconds=2.0).send(NOTICE)
    assert problem == "it did not end within 2 s and was killed: here I hang here I hang"
    assert time.monotonic() - began < 15
    parent, child = (int(line) for line in pids.read_text().split())

    async def both_are_gone() -> bool:
        return not any(_runs(pid) for pid in (parent, child))

    await eventually(both_are_gone)


async def test_one_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    """A watchdog that is stopped does not leave its hook running."""
    pid = tmp_path / "pid"
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    sending = asyncio.create_task(command(code, str(pid)).send(NOTICE))

    async def it_runs() -> bool:
        return pid.exists() and bool(pid.read_text())

    await eventually(it_runs)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert not _runs(int(pid.read_text()))


async def test_a_failure_is_said_with_the_end_of_what_it_wrote() -> None:
    """However much that is; one that does not read its input is no failure."""
    loud = "import sys; sys.stdout.write('x' * 5_000_000); sys.exit('no route to the pager')"
    problem = await command(loud).send(NOTICE)
    assert problem is not None
    assert problem.startswith("it ended with 1: ")
    assert problem.endswith("no route to the pager")
    assert len(problem) < OUTPUT_LIMIT_BYTES
    assert await command("import os; os.close(0)").send(NOTICE) is None
    missing = NoticeCommand(["/no/such/program"], source="", namespace="")
    assert await missing.send(NOTICE) == "it can't be started: No such file or directory"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
