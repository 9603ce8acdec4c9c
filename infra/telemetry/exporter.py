"""The exporter of engine spans: at least once, in order, and patient. A collector that is down costs one line in the log.

`export` returns when the collector has taken the spans, or has said that it never will; until then it tries again with
growing waits. Whoever calls moves its position only afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from tailrace.infra.telemetry.otlp import encode_spans, rejected
from tailrace.infra.telemetry.sender import NotDelivered, Sender
from tailrace.infra.telemetry.settings import TelemetrySettings
from tailrace.infra.telemetry.span import Span
from tailrace.infra.telemetry.threads import in_daemon

log = logging.getLogger(__name__)

#: Spans in one request.
BATCH: Final = 512

#: Waits between tries, in seconds; the last one is repeated.
BACKOFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

#: What engine spans say of their origin. No process id and no version: the same spans are the same bytes wherever and
#: whenever they are encoded.
SERVICE_NAME: Final = "tailrace-engine"


class SpanExporter:
    """Sends spans to one collector. One request at a time, so that a collector that comes back is not flooded."""

    def __init__(self, settings: TelemetrySettings, *, backoff_seconds: Sequence[float] = BACKOFF_SECONDS) -> None:
        self._sender = Sender(settings)
        self._resource: Mapping[str, str] = {**settings.resource, "service.name": SERVICE_NAME}
        self._backoff = backoff_seconds
        self._turn = asyncio.Lock()
        self._down = False

    async def export(self, spans: Sequence[Span]) -> None:
        """Deliver spans, however long it takes."""
        async with self._turn:
            for begin in range(0, len(spans), BATCH):
                await self._deliver(spans[begin : begin + BATCH])

    async def try_export(self, spans: Sequence[Span]) -> None:
        """Deliver spans now; raises `NotDelivered` where the collector is down or refuses."""
        async with self._turn:
            for begin in range(0, len(spans), BATCH):
                await self._send(spans[begin : begin + BATCH])

    async def _deliver(self, spans: Sequence[Span]) -> None:
        tries = 0
        while True:
            try:
                answer = await self._send(spans)
            except NotDelivered as error:
                if error.too_large and len(spans) > 1:
                    half = len(spans) // 2
                    await self._deliver(spans[:half])
                    await self._deliver(spans[half:])
                    return
                if error.final:
                    log.error("%d spans are dropped: %s", len(spans), error)  # noqa: TRY400  # said by the collector
                    return
                self._say_down(error)
                await asyncio.sleep(self._backoff[min(tries, len(self._backoff) - 1)])
                tries += 1
            else:
                self._say_up()
                if lost := rejected(answer):
                    log.error("the collector rejected %s", lost)
                return

    async def _send(self, spans: Sequence[Span]) -> bytes:
        return await in_daemon(lambda: self._sender.send(encode_spans(spans, self._resource)), name="tailrace spans")

    def _say_down(self, error: NotDelivered) -> None:
        log.log(
            logging.DEBUG if self._down else logging.WARNING,
            "%s: %s; engine spans wait in the log and are sent when it is back",
            self._sender.endpoint,
            error,
        )
        self._down = True

    def _say_up(self) -> None:
        if self._down:
            log.info("%s takes spans again", self._sender.endpoint)
        self._down = False
