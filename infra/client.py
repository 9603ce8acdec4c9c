"""A client of the gateway for commands: JSON requests and an event stream, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tailrace.core.errors import ConfigurationError, TailraceError

API: Final = "/api/v1"
TIMEOUT_SECONDS: Final = 30.0
STREAM_TIMEOUT_SECONDS: Final = 45.0
RECONNECT_SECONDS: Final = 30.0
RECONNECT_PAUSE_SECONDS: Final = 0.3


class GatewayError(TailraceError):
    """The gateway refused; `problem` is its problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.code = str(problem.get("code") or "gateway-error")  # type: ignore[misc]  # the code of this very problem
        detail = problem.get("detail") or problem.get("title") or f"HTTP {status}"
        places = "".join(f"\n  {error.get('pointer')}: {error.get('detail')}" for error in problem.get("errors") or ())
        super().__init__(f"{detail}{places}")
        self.status = status
        self.problem = problem


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One server-sent event. `data` is a CloudEvent; `cursor` resumes behind it."""

    event: str
    cursor: str
    data: dict[str, Any]


def path(*segments: str) -> str:
    """A path below `/api/v1`: each segment stays one, whatever it holds. "." and ".." can't be written as segments."""
    return "".join(f"/{urllib.parse.quote(segment, safe='', errors='surrogateescape')}" for segment in segments)


class Gateway:
    """One gateway, by its URL."""

    def __init__(self, url: str, token: str | None = None) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._token = token

    def get(self, path: str, **query: str | int | None) -> Any:
        """GET a document below `/api/v1`; parameters that are None are left out."""
        return self._send("GET", path, None, query)

    def post(self, path: str, body: dict[str, Any] | None = None, **query: str | int | None) -> Any:
        """POST a document below `/api/v1`."""
        return self._send("POST", path, {} if body is None else body, query)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """PUT a document below `/api/v1`."""
        return self._send("PUT", path, body, {})

    def health(self) -> dict[str, Any]:
        """`GET /health`, also when it says that something is wrong."""
        try:
            return dict(self._request("GET", self.url + "/health", None))
        except GatewayError as error:
            return {"status": "failed", **error.problem}

    def stream(self, path: str, after: str | None = None) -> Iterator[StreamEvent]:
        """Follow an event stream until it ends; a broken connection is taken up again behind the last event."""
        broken_at: float | None = None
        while True:
            try:
                for event in self._stream_once(path, after):
                    broken_at = None
                    after = event.cursor or after
                    yield event
                return
            except (OSError, http.client.HTTPException):
                broken_at = broken_at or time.monotonic()
            except ConfigurationError:
                # Gone in the middle: perhaps it is just being started again.
                broken_at = broken_at or time.monotonic()
                if after is None or time.monotonic() - broken_at > RECONNECT_SECONDS:
                    raise
            time.sleep(RECONNECT_PAUSE_SECONDS)

    def _stream_once(self, path: str, after: str | None) -> Iterator[StreamEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        request = urllib.request.Request(self.url + API + path, headers={**self._headers(), **headers})  # noqa: S310
        with self._open(request, STREAM_TIMEOUT_SECONDS) as response:
            event, cursor = "message", ""
            data: list[str] = []
            for raw in response:
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        yield StreamEvent(event=event, cursor=cursor, data=json.loads("\n".join(data)))
                    event, cursor, data = "message", "", []
                elif name == "event":
                    event = value
                elif name == "id":
                    cursor = value
                elif name == "data":
                    data.append(value)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, query: dict[str, str | int | None]) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        suffix = f"?{urllib.parse.urlencode(given)}" if given else ""
        return self._request(method, self.url + API + path + suffix, body)

    def _request(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers=self._headers())  # noqa: S310
        with self._open(request, TIMEOUT_SECONDS) as response:
            text = response.read()
        return json.loads(text) if text else None

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        try:
            return urllib.request.urlopen(request, timeout=timeout)  # noqa: S310  # checked when it was given
        except urllib.error.HTTPError as error:
            raise _refused(error) from error
        except urllib.error.URLError as error:
            raise ConfigurationError(
                f"no gateway answers at {self.url} ({error.reason}); start one with `tailrace up`, or set TAILRACE_URL"
            ) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers


def check_url(url: str) -> None:
    """Raise `ConfigurationError` for what is no URL of a gateway."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(f"TAILRACE_URL {url!r} is no URL of a gateway; it is like http://127.0.0.1:8080")


def _refused(error: urllib.error.HTTPError) -> GatewayError:
    text = error.read()
    try:
        problem = json.loads(text)
    except ValueError:
        problem = {}
    return GatewayError(error.code, problem if isinstance(problem, dict) else {})
