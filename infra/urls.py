"""URLs of Redis and Postgres: whether one can be right, and what may be shown of it.

Invariant: nothing of a URL that can't be read is repeated, because a password may be anywhere in it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tailrace.core.errors import ConfigurationError

REDIS_SETTING: Final = "TAILRACE_REDIS_URL"
POSTGRES_SETTING: Final = "TAILRACE_POSTGRES_URL"

_PORTS: Final = {"redis": "6379", "rediss": "6379", "postgres": "5432", "postgresql": "5432"}
_MAX_PORT: Final = 65535
_LIKE: Final = {
    REDIS_SETTING: "redis://user:password@127.0.0.1:6379/0, rediss://… with TLS, or unix:///run/redis.sock",
    POSTGRES_SETTING: "postgresql://user:password@127.0.0.1:5432/tailrace",
}


def check_redis_url(url: str) -> None:
    """Raise `ConfigurationError` for what is no URL of a Redis."""
    parts = _split(REDIS_SETTING, url)
    if parts.scheme == "unix":
        good = bool(parts.path)
    else:
        database = parts.path.strip("/")
        one = len(_places(parts)) == 1
        good = parts.scheme in {"redis", "rediss"} and one and (not database or database.isdecimal()) and _whole(parts)
    if not good:
        raise _wrong(REDIS_SETTING)


def check_postgres_url(url: str) -> None:
    """Raise `ConfigurationError` for what is no URL of a Postgres."""
    parts = _split(POSTGRES_SETTING, url)
    if parts.scheme not in {"postgres", "postgresql"} or not _whole(parts):
        raise _wrong(POSTGRES_SETTING)


def address(url: str) -> str:
    """Where the server of a URL that was checked is: host and port, or the path of its socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    places = [f"{host}:{port or _PORTS[parts.scheme]}" for host, port in _places(parts)]
    return ",".join(places or parse_qs(parts.query).get("host", ["this machine"]))


def _split(setting: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        ports = [port for _, port in _places(parts) if port] if parts.scheme != "unix" else []
    except ValueError:
        raise _wrong(setting) from None  # the cause repeats the URL
    if not all(port.isdecimal() and 0 < int(port) <= _MAX_PORT for port in ports):
        raise _wrong(setting)
    return parts


def _places(parts: SplitResult) -> list[tuple[str, str]]:
    """(host, port) of each server that is named; there may be several of Postgres."""
    named = parts.netloc.rpartition("@")[2]
    return [_place(place) for place in named.split(",") if place]


def _place(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, ""
    if not host:
        raise ValueError("a port without a host")
    return host, port


def _whole(parts: SplitResult) -> bool:
    """Whether it ends where it seems to: a `/`, `?` or `#` in a password that is not encoded cuts it short."""
    return not parts.fragment and "@" not in parts.path + parts.query


def _wrong(setting: str) -> ConfigurationError:
    return ConfigurationError(
        f"{setting} is not a URL that can be used; it is like {_LIKE[setting]} (special characters in a password are "
        "percent-encoded)"
    )
