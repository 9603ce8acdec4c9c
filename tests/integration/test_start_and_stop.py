"""Processes whose servers can't be reached: they say for whom they wait, without a password, and end when they are told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.core.errors import ConfigurationError
from tailrace.infra.config import Settings
from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tailrace.infra.supervise import Up, UpOptions
from tests.support.servers import redis_program
from tests.support.waiting import PATIENCE_SECONDS, beside, eventually

#: Nobody listens on port 1; the password is to be seen nowhere.
NO_REDIS = "redis://:geheim@127.0.0.1:1/0"
NO_POSTGRES = "postgresql://tailrace:geheim@127.0.0.1:1/tailrace"

#: How soon a process is gone that has nothing to hand back, on a busy machine.
SOON_SECONDS = 5.0

PROCESSES = [("gateway", "--port", "0"), ("orchestrator",), ("projector",), ("watchdog",), ("worker", "scaffold")]


@contextmanager
def running(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """One command as a program, what it says on pipes. It is killed when a test waits too long for that."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tailrace.infra.cli", *arguments],
        env={**kept, "TAILRACE_DATA_DIR": str(folder / "d"), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    patience = threading.Timer(PATIENCE_SECONDS, process.kill)
    patience.start()
    try:
        yield process
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The first line on standard error that has these words."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"it ended without saying {words!r}:\n{''.join(seen)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", PROCESSES, ids=lambda arguments: arguments[0])
def test_process_that_waits_for_redis_ends_when_told(
    tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """The first signal is enough while it has not begun, and it ends as one that did its work."""
    with running(tmp_path, *arguments, TAILRACE_REDIS_URL=NO_REDIS, TAILRACE_POSTGRES_URL=NO_POSTGRES) as process:
        assert "geheim" not in line_with(process, "trying again")
        process.send_signal(number)
        assert process.wait(SOON_SECONDS) == 0


def test_projector_that_waits_for_postgres_ends_when_told(
    tmp_path: Path, redis_server: EmbeddedRedis, namespace: str
) -> None:
    """The same, one server further."""
    with running(
        tmp_path,
        "projector",
        TAILRACE_REDIS_URL=redis_server.url,
        TAILRACE_POSTGRES_URL=NO_POSTGRES,
        TAILRACE_NAMESPACE=namespace,
    ) as process:
        line_with(process, "waiting for Postgres")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_SECONDS) == 0


def test_up_says_which_redis_it_waits_for_and_ends_when_told(tmp_path: Path, postgres_server: EmbeddedPostgres) -> None:
    """At once, with the address and the setting; Ctrl-C ends it at once, too."""
    arguments = ("up", "--port", "0", "--agents", "")
    with running(
        tmp_path, *arguments, TAILRACE_REDIS_URL=NO_REDIS, TAILRACE_POSTGRES_URL=postgres_server.url
    ) as process:
        line = line_with(process, "waiting for Redis at 127.0.0.1:1")
        assert "TAILRACE_REDIS_URL" in line
        assert "geheim" not in line
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON_SECONDS) == 0


def test_up_says_which_postgres_it_waits_for(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    """Postgres is asked for itself, and as JSON where that was wanted."""
    arguments = ("up", "--port", "0", "--agents", "", "--json")
    with running(
        tmp_path, *arguments, TAILRACE_REDIS_URL=redis_server.url, TAILRACE_POSTGRES_URL=NO_POSTGRES
    ) as process:
        document: dict[str, Any] = json.loads(line_with(process, "waiting for Postgres at 127.0.0.1:1"))
        assert "TAILRACE_POSTGRES_URL" in document["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_SECONDS) == 0


@pytest.mark.parametrize(
    ("redis_url", "postgres_url", "setting"),
    [(NO_REDIS, None, "TAILRACE_REDIS_URL"), (None, NO_POSTGRES, "TAILRACE_POSTGRES_URL")],
)
async def test_up_ends_with_the_setting_when_a_server_stays_away(
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    postgres_server: EmbeddedPostgres,
    redis_url: str | None,
    postgres_url: str | None,
    setting: str,
) -> None:
    """After the time to start: no process has been started in vain."""
    settings = Settings(
        data_dir=tmp_path, redis_url=redis_url or redis_server.url, postgres_url=postgres_url or postgres_server.url
    )
    with pytest.raises(ConfigurationError, match=setting) as caught:
        async with Up(settings, UpOptions(port=0, start_seconds=0.5)):
            pass
    assert "127.0.0.1:1" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_process_says_as_json_that_it_is_ready(tmp_path: Path, redis_server: EmbeddedRedis, namespace: str) -> None:
    """With `--json`: one document per line, on standard output that it is ready, on standard error what it logs."""
    arguments = ("worker", "simulated:a", "--json")
    with running(tmp_path, *arguments, TAILRACE_REDIS_URL=redis_server.url, TAILRACE_NAMESPACE=namespace) as process:
        assert process.stdout is not None
        ready: dict[str, Any] = json.loads(process.stdout.readline())
        assert (ready["ready"], ready["process"], ready["pid"]) == (True, "worker", process.pid)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SOON_SECONDS)
        assert process.returncode == 0
        assert out == ""
        assert [json.loads(line)["level"] for line in err.splitlines()]


async def test_up_goes_on_when_the_redis_it_waits_for_comes(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Started before its server is no error."""
    async with EmbeddedRedis(tmp_path / "redis", server=redis_program(), tcp=True) as server:
        url = server.url
        await server.stop()
        up = Up(
            Settings(data_dir=tmp_path / "d", redis_url=url, postgres_url=database_url), UpOptions(port=0, agents=())
        )
        async with beside(up.__aenter__()) as (starting,):
            await eventually(lambda: _said(caplog, "waiting for Redis at 127.0.0.1:"))
            await server.start()
            assert server.url == url
            await starting
        try:
            assert {process.state for process in up.processes} == {"running"}
        finally:
            await up.__aexit__()


async def _said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text
