"""Settings of notices: which webhooks and which command, checked before anything starts.

Invariant: neither the secret nor a URL is repeated in an error or shown by `repr`: a URL of a webhook often holds a secret.
"""

from __future__ import annotations

import ipaddress
import shlex
import shutil
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from tailrace.core.errors import ConfigurationError

WEBHOOKS: Final = "TAILRACE_WEBHOOKS"
SECRET: Final = "TAILRACE_WEBHOOK_SECRET"  # noqa: S105  # a name
PRIVATE: Final = "TAILRACE_WEBHOOKS_PRIVATE"
COMMAND: Final = "TAILRACE_NOTICE_COMMAND"
QUIET: Final = "TAILRACE_NOTICE_QUIET_SECONDS"

DEFAULT_QUIET_SECONDS: Final = 180.0
LONGEST_QUIET_SECONDS: Final = 24 * 3600.0
SHORTEST_SECRET: Final = 16
_SWITCH: Final = {"": False, "0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}


class NoticeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`private`: webhooks may be at addresses that are not public. A fault is over when it was quiet for `quiet_seconds`."""

    webhooks: tuple[str, ...] = ()
    secret: str | None = None
    private: bool = False
    command: tuple[str, ...] = ()
    quiet_seconds: float = DEFAULT_QUIET_SECONDS

    def __repr__(self) -> str:
        return f"NoticeSettings({len(self.webhooks)} webhooks, {'a' if self.command else 'no'} command)"


def notice_settings(env: Mapping[str, str]) -> NoticeSettings:
    """What the environment says; raises `ConfigurationError` for what can't be used."""
    webhooks = tuple(dict.fromkeys(env.get(WEBHOOKS, "").split()))
    for number, url in enumerate(webhooks, 1):
        _check_url(number, url)
    secret = env.get(SECRET) or None
    if webhooks and secret is None:
        raise ConfigurationError(
            f"{WEBHOOKS} needs {SECRET}: a random text that the receivers know too, by which they check who calls"
        )
    if secret is not None and len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"{SECRET} is too short: {SHORTEST_SECRET} characters or more, like `openssl rand -hex 32`"
        )
    private = _SWITCH.get(env.get(PRIVATE, "").lower())
    if private is None:
        raise ConfigurationError(f"{PRIVATE} {env[PRIVATE]!r}: 1 or 0")
    return NoticeSettings(
        webhooks=webhooks,
        secret=secret,
        private=private,
        command=_command(env.get(COMMAND, "")),
        quiet_seconds=_quiet(env.get(QUIET, "")),
    )


def check_here(settings: NoticeSettings) -> None:
    """What only the machine that tells can know; raises `ConfigurationError`."""
    if settings.command and shutil.which(settings.command[0]) is None:
        raise ConfigurationError(f"{COMMAND}: there is no program {settings.command[0]!r} here that can be run")


def _check_url(number: int, url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        good = parts.scheme in {"http", "https"} and parts.port != 0 and not parts.fragment and bool(host)
        # Some resolvers take `127.1` or `2130706433` for an address: it is written out, or it is a name.
        if good and host.rpartition(".")[2].isdecimal():
            ipaddress.IPv4Address(host)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            f"{WEBHOOKS}: number {number} is not a URL like https://hooks.example.com/tailrace (blanks are between them)"
        )


def _command(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigurationError(f"{COMMAND} can't be split into words: {error}") from error


def _quiet(text: str) -> float:
    if not text:
        return DEFAULT_QUIET_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_QUIET_SECONDS:
        raise ConfigurationError(f"{QUIET} {text!r}: seconds, from 0 to {LONGEST_QUIET_SECONDS:.0f}")
    return seconds
