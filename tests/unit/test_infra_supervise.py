"""The supervisor goes on, whatever happens to what it keeps running, and gives up on what keeps dying."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from tailrace.infra import supervise
from tailrace.infra.config import UP_FILE, Settings
from tailrace.infra.embedded import EmbeddedServer
from tailrace.infra.supervise import DEATHS, ProcessPlan, Supervised, Up, UpOptions


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six deaths without the wait."""
    monkeypatch.setattr(supervise, "_BACKOFF", (0.0,))


class DeadProcess:
    """A process that has ended."""

    returncode = 1

    async def wait(self) -> int:
        """At once."""
        return 1


class NoFork(Supervised):
    """Its first start finds no memory; later ones give a process that ends."""

    starts = 0

    async def start(self) -> str:
        """Fails once."""
        self.starts += 1
        if self.starts == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self._process = cast("asyncio.subprocess.Process", DeadProcess())
        self.state = "running"
        return ""


async def test_failed_fork_counts_as_a_death(tmp_path: Path) -> None:
    """The process is tried again, and left down only after as many deaths as ever."""
    process = NoFork(ProcessPlan(name="x", arguments=()), {}, tmp_path / "x.log")
    process._process = cast("asyncio.subprocess.Process", DeadProcess())
    changes: list[str] = []
    async with asyncio.timeout(5):
        await process.keep(changes.append)
    assert process.starts == DEATHS - 1
    assert process.state == "down"
    assert f"ended {DEATHS} times" in process.detail
    assert changes


class BrokenServer:
    """A server that ended and can't be started."""

    pid = 0
    running = False
    log_path = Path("server.log")
    starts = 0

    async def wait(self) -> int:
        """At once."""
        return -9

    async def start(self) -> None:
        """Never works."""
        self.starts += 1
        raise ValueError("no disk")


async def test_server_that_keeps_dying_is_left_down_and_shown(tmp_path: Path) -> None:
    """It is in `up.json`, where `doctor` finds it."""
    up = Up(Settings(data_dir=tmp_path), UpOptions())
    up._announced = True
    server = BrokenServer()
    async with asyncio.timeout(5):
        await up._keep_server("redis", cast("EmbeddedServer", server))
    assert server.starts == DEATHS - 1
    states: dict[str, Any] = json.loads((tmp_path / UP_FILE).read_text())["processes"]
    assert states["redis"]["state"] == "down"
    assert "no disk" in states["redis"]["detail"]
