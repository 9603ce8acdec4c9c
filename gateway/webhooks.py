"""Webhooks: notices are sent by POST, signed, to where people want them.

Invariants: the address is checked where the socket is made, so a name can't be resolved to one thing for the check and to
another for the connection; redirects are not followed; neither the secret nor the path of a URL, which may hold one, is logged.

A receiver computes HMAC-SHA256 of `<t>.<body>` with the shared secret, and compares it with `v1` of the header
`Tailrace-Signature: t=<seconds since the epoch>,v1=<hex>`. `Tailrace-Notice` is the id: the same when a notice comes again.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tailrace.core.notices import Notice
from tailrace.gateway.addresses import is_public
from tailrace.gateway.notices import notice_document

TIMEOUT_SECONDS: Final = 10.0
SIGNATURE_HEADER: Final = "Tailrace-Signature"
NOTICE_HEADER: Final = "Tailrace-Notice"


class AddressRefused(OSError):
    """The receiver's address is inside, and that was not allowed."""


class Webhook:
    """One receiver; use it as a context."""

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        source: str,
        namespace: str,
        private: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        parts = urlsplit(url)
        self.target = f"webhook-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self.title = f"the webhook at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.timeout_seconds = timeout_seconds
        self._url = url
        self._secret = secret
        self._source = source
        self._namespace = namespace
        self._private = private
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Webhook:
        # A connection for each notice: there are few, and each is checked. The environment's proxies are not used.
        connector = aiohttp.TCPConnector(
            force_close=True, use_dns_cache=False, socket_factory=None if self._private else _public_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, notice: Notice) -> str | None:
        """POST it; None when the answer is 2xx. Of the answer nothing but its status is read."""
        assert self._session is not None, "used outside of its context"
        body = notice_document(notice, self._source, self._namespace)
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": "tailrace",
            NOTICE_HEADER: notice.id,
            SIGNATURE_HEADER: signature(self._secret, body, int(time.time())),
        }
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except TimeoutError:
            return f"no answer within {self.timeout_seconds:g} s"
        except aiohttp.ClientConnectorError as error:
            return str(error.os_error) or type(error.os_error).__name__
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # (Its text may repeat the URL.)
            return f"the request failed: {type(error).__name__}"
        if 300 <= status < 400:
            return f"it answered {status}: redirects are not followed, correct its URL"
        return None if 200 <= status < 300 else f"it answered {status}"


def signature(secret: str, body: bytes, at: int) -> str:
    """The value of `Tailrace-Signature` at a time, in seconds since the epoch."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _public_socket(address: Sequence[Any]) -> socket.socket:
    """A socket for exactly this address (as `getaddrinfo` gives it); raises `AddressRefused` for one that is inside."""
    family, kind, protocol, _, place = address
    if not is_public(str(place[0])):
        raise AddressRefused(
            f"the address {place[0]} is not public: set TAILRACE_WEBHOOKS_PRIVATE=1 if it is the one you mean"
        )
    return socket.socket(family=family, type=kind, proto=protocol)
