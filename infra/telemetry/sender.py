"""One request to a collector: gzip over HTTP, bounded in time, and an answer that says whether to try again.

Synchronous and without any client library: it is called from threads, and a process that sends nothing loads nothing.
"""

from __future__ import annotations

import gzip
import http.client
import urllib.error
import urllib.request
from typing import IO, Final

from tailrace.infra.telemetry.settings import TelemetrySettings

#: Bytes of an answer that are read.
ANSWER_LIMIT: Final = 64 * 1024

#: Answers that will stay the same for the same bytes. Any other failure may pass: a wrong token or path can be mended.
_FINAL: Final = frozenset({400, 413, 422})


class NotDelivered(Exception):
    """The collector did not take the request. `final`: it will never take these bytes. `status` is 0 without an answer."""

    def __init__(self, reason: str, *, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def final(self) -> bool:
        """True when trying again is in vain."""
        return self.status in _FINAL

    @property
    def too_large(self) -> bool:
        """True when fewer spans at a time may pass."""
        return self.status == 413


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as an empty GET: it is an error instead."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


class Sender:
    """Sends requests to the collector of `settings`. May be used from several threads."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self.endpoint = settings.endpoint
        self._timeout = settings.timeout_seconds
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": "tailrace",
            **settings.headers,
        }
        self._opener = urllib.request.build_opener(_NoRedirect())

    def send(self, payload: bytes) -> bytes:
        """Post one request, and give the answer; raises `NotDelivered`."""
        # Level 1 and no time stamp: the same bytes for the same spans, at little cost.
        request = urllib.request.Request(  # noqa: S310  # the scheme was checked with the settings
            self.endpoint, data=gzip.compress(payload, compresslevel=1, mtime=0), headers=self._headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                answer: bytes = response.read(ANSWER_LIMIT)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise NotDelivered(f"the collector answered {error.code} {error.reason}", status=error.code) from error
        except urllib.error.URLError as error:
            raise NotDelivered(f"the collector can't be reached: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(f"the collector can't be reached: {str(error) or type(error).__name__}") from error
        except ValueError as error:
            # A header that can't be sent, for one: no request can be made until it is mended.
            raise NotDelivered(f"the request can't be made: {error}") from error
