"""URLs of Redis and Postgres: what is accepted, what is refused before anything begins, and what is shown of them."""

from __future__ import annotations

import pytest

from tailrace.core.errors import ConfigurationError
from tailrace.infra.cli import main
from tailrace.infra.config import load_settings
from tailrace.infra.urls import address

GOOD = {
    "TAILRACE_REDIS_URL": {
        "redis://127.0.0.1:6379/0": "127.0.0.1:6379",
        "redis://:geheim@host": "host:6379",
        "redis://localhost": "localhost:6379",
        "rediss://user:geheim@[::1]:7000/3": "[::1]:7000",
        "unix://:geheim@/run/redis.sock?db=0": "/run/redis.sock",
    },
    "TAILRACE_POSTGRES_URL": {
        "postgresql://tailrace:geheim@host/tailrace": "host:5432",
        "postgres://host:5433/x?sslmode=disable": "host:5433",
        "postgresql://u:geheim@a:1,b:2/x": "a:1,b:2",
        "postgresql://u:geheim@/x?host=/run/pg&port=5432": "/run/pg",
    },
}
BAD = {
    "TAILRACE_REDIS_URL": [
        "garbage",
        "geheim",
        "http://:geheim@host",
        "redis://",
        "redis://:geheim@host:port",
        "redis://:geheim@host:99999",
        "redis://:geheim@host/nine",
        "redis://:gehe/im@host",
        "redis://x:1?geheim@host",
        "redis://:geheim@[::1",
        "unix://:geheim@",
        "localhost:6379",
    ],
    "TAILRACE_POSTGRES_URL": [
        "garbage",
        "host=x password=geheim",
        "postgresql://u:geheim@host:port/x",
        "postgresql://u:gehe#im@host/x",
        "mysql://u:geheim@host/x",
    ],
}


@pytest.mark.parametrize(("setting", "url", "shown"), [(s, u, a) for s, all_ in GOOD.items() for u, a in all_.items()])
def test_url_is_taken_and_shown_without_its_password(setting: str, url: str, shown: str) -> None:
    """Only where the server is."""
    settings = load_settings(environ={setting: url}, follow_up=False)
    assert url in {settings.redis_url, settings.postgres_url}
    assert address(url) == shown


@pytest.mark.parametrize(("setting", "url"), [(s, u) for s, urls in BAD.items() for u in urls])
def test_what_is_no_url_is_refused(setting: str, url: str) -> None:
    """With the setting and what one looks like; a password may be anywhere in it, so nothing of it is repeated."""
    with pytest.raises(ConfigurationError, match=setting) as caught:
        load_settings(environ={setting: url}, follow_up=False)
    assert "it is like " in str(caught.value)
    assert "gehe" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("orchestrator", "TAILRACE_REDIS_URL"),
        ("up", "TAILRACE_REDIS_URL"),
        ("up", "TAILRACE_POSTGRES_URL"),
        ("gateway", "TAILRACE_POSTGRES_URL"),
        ("doctor", "TAILRACE_POSTGRES_URL"),
    ],
)
def test_command_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, setting: str
) -> None:
    """One message and exit code 1."""
    monkeypatch.setenv(setting, "garbage")
    with pytest.raises(SystemExit) as ended:
        main([command])
    assert ended.value.code == 1
    assert setting in capsys.readouterr().err
