"""Sending spans to a collector over real sockets: patiently, at least once, and without a word too many."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tailrace.core.errors import ConfigurationError
from tailrace.core.testing.builders import line
from tailrace.core.testing.history import History
from tailrace.infra.telemetry.document import export_run, run_spans
from tailrace.infra.telemetry.exporter import SpanExporter
from tailrace.infra.telemetry.provider import CollectorExporter
from tailrace.infra.telemetry.sender import NotDelivered
from tailrace.infra.telemetry.settings import TelemetrySettings, collector, telemetry_settings
from tailrace.infra.telemetry.span import Span
from tests.integration.otlp_receiver import Receiver, collecting


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with collecting() as found:
        yield found


@pytest.fixture
def history() -> History:
    found = History(line("build", "ship"))
    found.create()
    found.complete("build")
    found.complete("ship")
    return found


@pytest.fixture
def spans(history: History) -> list[Span]:
    return run_spans(history.records)


def exporter(receiver: Receiver) -> SpanExporter:
    return SpanExporter(collector(receiver.endpoint), backoff_seconds=(0.01,))


async def test_spans_arrive_as_they_are(receiver: Receiver, spans: list[Span]) -> None:
    """Every span arrives once, gzipped, with the engine as its origin; a repeat is the same bytes."""
    sender = exporter(receiver)
    await sender.export(spans)
    await sender.export(spans)
    assert [span.span_id for span in receiver.spans[: len(spans)]] == [span.span_id for span in spans]
    assert {span.service for span in receiver.spans} == {"tailrace-engine"}
    assert receiver.headers[0]["content-encoding"] == "gzip"
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_a_collector_that_is_down_is_waited_for(
    receiver: Receiver, spans: list[Span], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost in an outage, however many tries it takes, and it costs two lines in the log."""
    receiver.stop()
    caplog.set_level(logging.INFO, "tailrace.infra.telemetry")
    sending = asyncio.create_task(exporter(receiver).export(spans))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(sending)
    receiver.answers = [503, 429, 500, 401, 404]
    receiver.start()
    await sending
    assert len(receiver.spans) == len(spans)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_what_is_refused_for_good_is_dropped_aloud(
    receiver: Receiver, spans: list[Span], caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that a collector calls malformed would be refused for ever: it is said, and the next one goes on."""
    receiver.answers = [400]
    sender = exporter(receiver)
    await sender.export(spans)
    assert receiver.spans == []
    assert "dropped" in caplog.text
    await sender.export(spans)
    assert len(receiver.spans) == len(spans)


async def test_a_batch_that_is_too_large_is_halved(receiver: Receiver, spans: list[Span]) -> None:
    """413 means fewer at a time."""
    receiver.limit = 2
    await exporter(receiver).export(spans)
    assert [span.span_id for span in receiver.spans] == [span.span_id for span in spans]


async def test_spans_that_were_taken_in_part_are_told(
    receiver: Receiver, spans: list[Span], caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that answers 200 and rejects is not silent success."""
    receiver.rejecting = "too old"
    await exporter(receiver).export(spans)
    assert "too old" in caplog.text


async def test_one_run_can_be_sent_by_hand(receiver: Receiver, history: History) -> None:
    """`export_run` sends one run now, or says that it could not."""
    assert await export_run(history.records, collector(receiver.endpoint)) == 7
    assert len(receiver.spans) == 7
    receiver.stop()
    with pytest.raises(NotDelivered):
        await export_run(history.records, collector(receiver.endpoint))


async def test_a_collector_that_hangs_holds_up_nobody(spans: list[Span]) -> None:
    """Cancelling an export takes effect at once, although its request is still waiting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = SpanExporter(collector(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"))
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sender.export(spans)
        assert time.monotonic() - begin < 2.0


def test_the_sdk_loses_spans_rather_than_time(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Spans of handlers are not kept over an outage: a few tries, one line when it begins and one when it ends."""
    caplog.set_level(logging.INFO, "tailrace.infra.telemetry")
    found = CollectorExporter(collector(receiver.endpoint))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    tracer = provider.get_tracer("test")
    receiver.stop()
    found.stop_retrying()
    for _ in range(3):
        tracer.start_span("lost").end()
    receiver.start()
    tracer.start_span("sent").end()
    assert [span.name for span in receiver.spans] == ["sent"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    provider.shutdown()


def test_settings_are_the_standard_variables() -> None:
    """The general endpoint gets a path, the one for traces is used as it is; without one there is nothing."""
    assert telemetry_settings({}) is None
    assert telemetry_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}) is None
    assert telemetry_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}) is None
    assert telemetry_settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x, a=b",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
    ) == TelemetrySettings(
        endpoint="http://c:4318/v1/traces",
        headers={"Authorization": "Bearer x", "a": "b"},
        resource={"deployment.environment": "test"},
    )
    traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other"}
    assert telemetry_settings(traces) == TelemetrySettings(endpoint="https://c/x")
    for wrong in ({"OTEL_EXPORTER_OTLP_ENDPOINT": "file:///etc"}, {**traces, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}):
        with pytest.raises(ConfigurationError):
            telemetry_settings(wrong)
