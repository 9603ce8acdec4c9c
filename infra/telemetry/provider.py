"""The SDK's tracer provider with an exporter of our own: bounded, quiet, and without a client library.

Spans wait in a queue of bounded size and leave in batches on a thread. When the collector is down the queue overflows and
the oldest spans are lost: these are spans of handlers and requests, the engine's own come from the log and wait there.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tailrace import __version__
from tailrace.infra.telemetry.sender import NotDelivered, Sender
from tailrace.infra.telemetry.settings import TelemetrySettings

log = logging.getLogger(__name__)

#: Waits between the tries of one batch, in seconds; then the batch is given up.
RETRY_SECONDS: Final = (0.5, 1.0, 2.0)


class CollectorExporter(SpanExporter):
    """Sends batches of the SDK. One line in the log when the collector goes, one when it is back."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self._sender = Sender(settings)
        self._stopping = threading.Event()
        self._lost = 0
        self._down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch: with a few tries, or with one while the collector is known to be down."""
        payload = encode_spans(spans).SerializeToString()
        for wait in (None,) if self._down else (*RETRY_SECONDS, None):
            try:
                self._sender.send(payload)
            except NotDelivered as error:
                self._say_down(error)
                if error.final or wait is None or self._stopping.wait(wait):
                    break
            else:
                self._say_up()
                return SpanExportResult.SUCCESS
        self._lost += len(spans)
        return SpanExportResult.FAILURE

    def stop_retrying(self) -> None:
        """From now on every batch is tried once."""
        self._stopping.set()

    def shutdown(self) -> None:
        """Nothing is kept open."""
        self.stop_retrying()
        if self._lost:
            log.warning("%d spans were lost while the collector was away", self._lost)
            self._lost = 0

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept back."""
        return True

    def _say_down(self, error: NotDelivered) -> None:
        log.log(logging.DEBUG if self._down else logging.WARNING, "%s: %s", self._sender.endpoint, error)
        self._down = True

    def _say_up(self) -> None:
        if self._down:
            log.info("%s takes spans again; %d were lost", self._sender.endpoint, self._lost)
            self._lost = 0
        self._down = False


def start_provider(service_name: str, settings: TelemetrySettings) -> TracerProvider:
    """The provider of this process, and the global one from now on.

    Sampling is the SDK's default, `parentbased_always_on`, unless `OTEL_TRACES_SAMPLER` says otherwise.
    """
    resource = Resource.create(
        {SERVICE_NAME: service_name, SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    )
    # Not at exit: `stop_provider` does it, with a limit.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = CollectorExporter(settings)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _exporters[provider] = exporter
    # A full queue is said for every span that is dropped; that the collector is away was said once.
    logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.ERROR)
    trace.set_tracer_provider(provider)
    return provider


def stop_provider(provider: TracerProvider, *, timeout_seconds: float) -> None:
    """Flush and stop within `timeout_seconds`, whatever the collector does."""
    deadline = time.monotonic() + timeout_seconds
    _exporters.pop(provider).stop_retrying()
    stopping = threading.Thread(target=provider.shutdown, name="tailrace spans", daemon=True)
    stopping.start()
    stopping.join(max(0.0, deadline - time.monotonic()))
    if stopping.is_alive():
        log.warning("spans could not all be sent within %g s", timeout_seconds)


_exporters: dict[TracerProvider, CollectorExporter] = {}
