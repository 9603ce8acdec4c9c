"""Where spans go: the standard variables of OpenTelemetry, read here and nowhere else.

`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is used as it is; `/v1/traces` is put behind `OTEL_EXPORTER_OTLP_ENDPOINT`. Without one
of them nothing is sent, and the SDK is not even loaded. The sampler, batch sizes and resource attributes of the SDK are
read by the SDK itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from tailrace.core.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 10.0


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """A collector: the full URL for traces, headers for every request, and how long one may take at most.

    `resource` is what the deployment says of itself (`OTEL_RESOURCE_ATTRIBUTES`).
    """

    endpoint: str
    headers: dict[str, str] = {}
    timeout_seconds: float = TIMEOUT_SECONDS
    resource: dict[str, str] = {}


def telemetry_settings(environ: Mapping[str, str] | None = None) -> TelemetrySettings | None:
    """The collector that the environment names; None when there is none, or when tracing is switched off.

    Raises `ConfigurationError` for an endpoint that is no HTTP URL, or for a protocol that is not spoken here.
    """
    env = os.environ if environ is None else environ
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return None
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not endpoint:
        base = env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
        if not base:
            return None
        endpoint = f"{base.rstrip('/')}/v1/traces"
    protocol = (
        env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_PROTOCOL {protocol!r}: only 'http/protobuf' is spoken")
    return collector(
        endpoint,
        headers=_pairs(env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or env.get("OTEL_EXPORTER_OTLP_HEADERS") or ""),
        resource=_pairs(env.get("OTEL_RESOURCE_ATTRIBUTES") or ""),
    )


def collector(
    endpoint: str, *, headers: dict[str, str] | None = None, resource: dict[str, str] | None = None
) -> TelemetrySettings:
    """A collector by its full URL for traces; raises `ConfigurationError` when that is no HTTP URL."""
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigurationError(f"the OTLP endpoint {endpoint!r} is not a URL like http://127.0.0.1:4318/v1/traces")
    return TelemetrySettings(endpoint=endpoint, headers=headers or {}, resource=resource or {})


def _pairs(text: str) -> dict[str, str]:
    """`key=value,key=value`, percent-encoded, as the specification has it; what has no `=` is left out."""
    split = (item.partition("=") for item in text.split(","))
    return {key.strip(): unquote(value.strip()) for key, sign, value in split if sign and key.strip()}
