"""A collector: takes OTLP over HTTP as the real ones do, keeps what it decoded, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

PATIENCE_SECONDS = 30.0


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One span as it arrived; ids in hex, an empty parent for a root."""

    service: str
    resource: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    attributes: dict[str, Any]
    error: str


class Receiver:
    """The collector on a port of its own. `stop` and `start` are an outage, on the same port."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        #: Answers to give instead of 200, the next one first.
        self.answers: list[int] = []
        #: Requests with more spans than this are answered with 413.
        self.limit = 1_000_000
        #: What is said of spans that were not taken although the answer is 200.
        self.rejecting = ""
        self.requests = 0
        self._changed = threading.Condition()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The full URL for traces."""
        return f"{self.base}/v1/traces"

    @property
    def base(self) -> str:
        """What stands in `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening: connections are refused from now on."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    async def wait(self, condition: Callable[[], object]) -> None:
        """Return once the condition holds; it is looked at after each request."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: bool(condition()), PATIENCE_SECONDS)

        if not await asyncio.to_thread(wait):
            names = sorted({span.name for span in self.spans})
            raise AssertionError(f"after {self.requests} requests the collector has {len(self.spans)} spans: {names}")

    def named(self, name: str) -> list[Received]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Keep one request, or refuse it; gives status and answer."""
        with self._changed:
            self.requests += 1
            try:
                return self._take(body, headers)
            finally:
                self._changed.notify_all()

    def _take(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self.answers:
            return self.answers.pop(0), b""
        assert headers["content-type"] == "application/x-protobuf"
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        spans = list(_decoded(request))
        if len(spans) > self.limit:
            return 413, b""
        self.bodies.append(body)
        self.headers.append(headers)
        self.spans += spans
        response = ExportTraceServiceResponse()
        if self.rejecting:
            response.partial_success.rejected_spans = len(spans)
            response.partial_success.error_message = self.rejecting
        return 200, response.SerializeToString()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = receiver.take(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def collecting() -> Iterator[Receiver]:
    """A collector that listens while the block runs."""
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


def _decoded(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for part in request.resource_spans:
        resource = _values(part.resource.attributes)
        for scope in part.scope_spans:
            for span in scope.spans:
                yield Received(
                    service=resource["service.name"],
                    resource=resource,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=span.kind,
                    attributes=_values(span.attributes),
                    error=span.status.message if span.status.code == 2 else "",
                )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
