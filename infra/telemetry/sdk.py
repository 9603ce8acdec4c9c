"""Tracing of one process: the OpenTelemetry SDK where a collector is configured, and nothing at all where none is.

The rest of the code speaks to the API only. What is heavy is imported here when it is needed, so that a process that
sends nothing stays as small as it was. No failure of a collector is ever felt by the work of the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tailrace.infra.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SHUTDOWN_SECONDS: Final = 3.0


class Telemetry:
    """The tracing of this process. Without a collector it does nothing."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._instruments_server = False

    @property
    def enabled(self) -> bool:
        """True when spans are sent."""
        return self._provider is not None

    def instrument_server(self) -> None:
        """Give every `aiohttp.web.Application` that is made from now on a SERVER span around each request.

        The span's name is method and route. Probes and figures have none. Call it before the application is built.
        """
        if self._provider is not None:
            from tailrace.infra.telemetry.server import instrument  # noqa: PLC0415  # heavy, and wanted in one process only

            instrument(self._provider)
            self._instruments_server = True

    def shutdown(self, *, timeout_seconds: float = SHUTDOWN_SECONDS) -> None:
        """Send what is left, for `timeout_seconds` at most; what is not sent by then is lost. Blocks; may be called twice."""
        if self._provider is None:
            return
        from tailrace.infra.telemetry.provider import stop_provider  # noqa: PLC0415  # loaded already

        if self._instruments_server:
            from tailrace.infra.telemetry.server import uninstrument  # noqa: PLC0415  # loaded already

            uninstrument()
            self._instruments_server = False
        stop_provider(self._provider, timeout_seconds=timeout_seconds)
        self._provider = None


def configure(service_name: str, settings: TelemetrySettings | None) -> Telemetry:
    """Set up tracing as `service_name` (`tailrace-gateway`, `tailrace-worker`); once per process.

    With `settings` None, which is what `telemetry_settings` gives without an endpoint, nothing is loaded or started.
    """
    if settings is None:
        return Telemetry()
    from tailrace.infra.telemetry.provider import start_provider  # noqa: PLC0415  # a process without a collector pays nothing

    return Telemetry(start_provider(service_name, settings))
