"""SERVER spans of the gateway, by OpenTelemetry's middleware for aiohttp, put in front of the gateway's own."""

from __future__ import annotations

import os
import warnings
from typing import Final

from opentelemetry.context import Context
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider

#: Paths that are asked for all the time and tell nothing.
EXCLUDED: Final = "^/health,^/metrics$"

#: What a client searches for is nobody else's business: as in the access log, the path alone is kept.
_QUERY: Final = "url.query"


class _DropQuery(SpanProcessor):
    """Empties the query of each request's span."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Overwrite what was given at the start."""
        if span.attributes and _QUERY in span.attributes:
            span.set_attribute(_QUERY, "")


def instrument(provider: TracerProvider) -> None:
    """Let applications that are made from now on trace their requests; names as in the stable HTTP conventions."""
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    os.environ.setdefault("OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS", EXCLUDED)
    provider.add_span_processor(_DropQuery())
    with warnings.catch_warnings():
        # It makes a subclass of `web.Application`, which aiohttp advises against.
        warnings.simplefilter("ignore", DeprecationWarning)
        AioHttpServerInstrumentor().instrument(tracer_provider=provider)


def uninstrument() -> None:
    """Give the plain class back."""
    AioHttpServerInstrumentor().uninstrument()
