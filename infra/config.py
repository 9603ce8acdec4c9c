"""Settings: the one place that reads the environment. Command line options go before variables, these before defaults."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.core.errors import ConfigurationError
from tailrace.infra.notice_settings import NoticeSettings, notice_settings
from tailrace.infra.urls import POSTGRES_SETTING, REDIS_SETTING, check_postgres_url, check_redis_url

DEFAULT_DATA_DIR: Final = Path(".tailrace")
DEFAULT_URL: Final = "http://127.0.0.1:8080"

#: Written by `tailrace up` into its data directory, so that commands on this machine find it.
UP_FILE: Final = "up.json"

_NAMESPACE = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What every process of a deployment shares.

    `partitions` counts only when a namespace is made, and is fixed from then on; 8 when it is None.
    `log_tail_events` archived events stay in each partition's log; a run stays in Redis for `run_days` after its end.
    """

    data_dir: Path = DEFAULT_DATA_DIR
    redis_url: str | None = None
    postgres_url: str | None = None
    namespace: str = "tailrace"
    partitions: int | None = None
    redis_server: str | None = None
    postgres_bin: str | None = None
    url: str = DEFAULT_URL
    token: str | None = None
    log_level: str = "INFO"
    log_tail_events: int = 10_000
    run_days: float = 7.0
    repairs: str = ""
    notices: NoticeSettings = NoticeSettings()

    def require_redis(self) -> str:
        """The URL of Redis; raises `ConfigurationError` saying what to set."""
        if not self.redis_url:
            raise ConfigurationError(
                "no Redis is configured: set TAILRACE_REDIS_URL, or start everything with `tailrace up`; when that runs, "
                "name its directory with TAILRACE_DATA_DIR, or `--data-dir` where a command has it"
            )
        return self.redis_url

    def require_postgres(self) -> str:
        """The URL of Postgres; raises `ConfigurationError` saying what to set."""
        if not self.postgres_url:
            raise ConfigurationError(
                "no Postgres is configured: set TAILRACE_POSTGRES_URL, or start everything with `tailrace up`"
            )
        return self.postgres_url

    def require_token(self, host: str) -> None:
        """A gateway that others can reach asks for a token; raises `ConfigurationError` saying what to set."""
        from tailrace.gateway.access import is_loopback  # noqa: PLC0415  # brings aiohttp

        if self.token is None and not is_loopback(host):
            raise ConfigurationError(
                f"on {host!r} everyone who reaches this machine could start runs: set TAILRACE_TOKEN, for the gateway and "
                "for its clients, or listen on 127.0.0.1"
            )


def load_settings(
    *, data_dir: Path | None = None, environ: Mapping[str, str] | None = None, follow_up: bool = True
) -> Settings:
    """Settings from the environment and, for commands, from a running `tailrace up` in the data directory.

    Raises `ConfigurationError` for a value that can't be used.
    """
    env = os.environ if environ is None else environ
    folder = data_dir or Path(env.get("TAILRACE_DATA_DIR") or DEFAULT_DATA_DIR)
    running = _running_up(folder) if follow_up else {}
    namespace = env.get("TAILRACE_NAMESPACE") or "tailrace"
    if not _NAMESPACE.match(namespace):
        raise ConfigurationError(f"TAILRACE_NAMESPACE {namespace!r}: use a-z, 0-9, '-' and '_', up to 32")
    partitions = env.get("TAILRACE_PARTITIONS")
    if partitions and not (partitions.isdecimal() and len(partitions) < 4 and 1 <= int(partitions) <= 256):
        raise ConfigurationError(f"TAILRACE_PARTITIONS {partitions!r}: a number from 1 to 256")
    redis_url = env.get(REDIS_SETTING) or running.get("redis_url")
    if redis_url:
        check_redis_url(redis_url)
    postgres_url = env.get(POSTGRES_SETTING) or running.get("postgres_url")
    if postgres_url:
        check_postgres_url(postgres_url)
    return Settings(
        data_dir=folder,
        redis_url=redis_url,
        postgres_url=postgres_url,
        namespace=namespace,
        partitions=int(partitions) if partitions else None,
        redis_server=env.get("TAILRACE_REDIS_SERVER") or None,
        postgres_bin=env.get("TAILRACE_POSTGRES_BIN") or None,
        url=(env.get("TAILRACE_URL") or running.get("url") or DEFAULT_URL).rstrip("/"),
        token=env.get("TAILRACE_TOKEN") or None,
        log_tail_events=round(_number(env, "TAILRACE_LOG_TAIL", 10_000, most=1_000_000_000)),
        run_days=_number(env, "TAILRACE_RUN_DAYS", 7.0, most=36_500),
        log_level=(env.get("TAILRACE_LOG_LEVEL") or "INFO").upper(),
        repairs=env.get("TAILRACE_REPAIRS") or "",
        notices=notice_settings(env),
    )


def _number(env: Mapping[str, str], name: str, default: float, *, most: int) -> float:
    """A setting that is a number from 0 to `most`; raises `ConfigurationError`."""
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise ConfigurationError(f"{name} {text!r}: a number from 0 to {most}")
    return value


def _running_up(folder: Path) -> dict[str, Any]:
    """What a `tailrace up` in this folder wrote; nothing when it is not running any more."""
    try:
        written = json.loads((folder / UP_FILE).read_text())
        os.kill(int(written["pids"]["up"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(written)
