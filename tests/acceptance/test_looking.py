"""Commands that only look change nothing, and say what is wrong with what they were told."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tailrace.core.redis_backend.connection import Client, RedisSettings
from tailrace.infra.cli import main
from tailrace.infra.embedded import EmbeddedRedis


def run(*arguments: str) -> int:
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_namespace_that_is_missing_is_named_and_not_made(
    redis_server: EmbeddedRedis,
    namespace: str,
    server_runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """A typing error in TAILRACE_NAMESPACE leaves nothing behind."""
    monkeypatch.setenv("TAILRACE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("TAILRACE_NAMESPACE", namespace)
    monkeypatch.setenv("TAILRACE_DATA_DIR", str(tmp_path))
    assert run("doctor", "--json") == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["namespace"]["status"] == "failed"
    assert f"there is no namespace '{namespace}'" in checks["namespace"]["detail"]
    assert run("replay", "show", "x", "--json") == 1
    problem = json.loads(capsys.readouterr().err)
    assert problem["code"] == "configuration"
    assert f"there is no namespace '{namespace}'" in problem["detail"]

    async def keys() -> list[bytes]:
        client = Client(RedisSettings(url=redis_server.url))
        try:
            found: list[bytes] = await client.command("KEYS", f"*{namespace}*")
            return found
        finally:
            await client.aclose()

    assert not server_runner.run(keys())


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://host:port", "ftp://host"])
def test_url_that_is_none_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback."""
    monkeypatch.setenv("TAILRACE_URL", url)
    assert run("list") == 1
    assert "TAILRACE_URL" in capsys.readouterr().err
    assert run("list", "--json") == 1
    assert json.loads(capsys.readouterr().err)["code"] == "configuration"


def test_wrong_usage_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that asked for JSON gets nothing else."""
    assert run("list", "--nonsense", "--json") == 2
    assert json.loads(capsys.readouterr().err)["code"] == "usage"


def test_replay_outside_a_data_directory_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Who runs `up` elsewhere learns how to say where."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    assert run("replay", "show", "x") == 1
    assert "--data-dir" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["gateway", "up"])
def test_open_address_needs_a_token(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without one, anyone on the network could submit runs."""
    monkeypatch.delenv("TAILRACE_TOKEN", raising=False)
    monkeypatch.setenv("TAILRACE_DATA_DIR", str(tmp_path / "data"))
    assert run(command, "--host", "0.0.0.0", "--port", "0") == 1
    assert "TAILRACE_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
