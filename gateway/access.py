"""Who may ask: the bearer token, and for a browser on the same machine the checks that a token would otherwise make.

A gateway on a loopback address without a token is still protected from web pages: a page of another origin sends `Origin`,
and a name that was rebound to 127.0.0.1 stands in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from tailrace.gateway.problems import Refusal
from tailrace.gateway.settings import GatewaySettings

_OPEN: Final = frozenset({"/health/live", "/health/ready"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """True for `localhost` and every loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Decides about requests; holds the settings in the form it compares with."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._checks_host = is_loopback(settings.host)
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    def check(self, request: web.Request) -> None:
        """Let the request pass; raises `Refusal` (401 or 403)."""
        if request.path in _OPEN:
            return
        if self._checks_host:
            self._check_host(request)
        if request.method not in _SAFE:
            self._check_origin(request)
        if self._token is not None:
            self._check_token(request, self._token)

    def _check_host(self, request: web.Request) -> None:
        host = _hostname(request.host)
        if not is_loopback(host) and host not in self._hosts:
            raise Refusal(403, "forbidden-host", f"this gateway does not answer to the host name {host!r}")

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
            raise Refusal(403, "forbidden-origin", f"requests from {origin} may not change anything here")

    def _check_token(self, request: web.Request, token: bytes) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)
        if scheme.lower() != "bearer" or not matches:
            raise Refusal(
                401,
                "unauthorized",
                "this needs `Authorization: Bearer` with a valid token",
                headers={"WWW-Authenticate": 'Bearer realm="tailrace"'},
            )


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
