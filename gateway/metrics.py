"""The gateway's own figures, and how figures are written as OpenMetrics text."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Sample(msgspec.Struct, frozen=True):
    """One line: the name's suffix, its labels and the value."""

    suffix: str
    labels: Mapping[str, str]
    value: float


class Family(msgspec.Struct, frozen=True):
    """A metric: name, type (`counter`, `gauge`, `histogram`), what it means, and its samples."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class Metrics:
    """Counts requests and streams of one process."""

    def __init__(self) -> None:
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._durations: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_SECONDS) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.streams = 0
        self.slow_streams = 0

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is the pattern, not the path, so that labels stay few."""
        self._requests[method if method in _METHODS else "OTHER", route, status] += 1
        self._durations[route][bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self._seconds[route] += seconds

    def families(self) -> Iterator[Family]:
        """All figures of this process."""
        requests = [
            Sample("_total", {"method": method, "route": route, "status": str(status)}, count)
            for (method, route, status), count in self._requests.items()
        ]
        yield Family("tailrace_http_requests", "counter", "Requests answered.", requests)
        durations = [sample for route in self._durations for sample in self._histogram(route)]
        yield Family("tailrace_http_request_duration_seconds", "histogram", "Time to answer.", durations)
        yield gauge("tailrace_sse_streams", "Open event streams.", self.streams)
        slow = [Sample("_total", {}, self.slow_streams)]
        yield Family("tailrace_sse_slow_disconnects", "counter", "Streams ended because the client was slow.", slow)

    def _histogram(self, route: str) -> Iterator[Sample]:
        total = 0
        for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), self._durations[route], strict=True):
            total += count
            yield Sample("_bucket", {"route": route, "le": bound}, total)
        yield Sample("_count", {"route": route}, total)
        yield Sample("_sum", {"route": route}, self._seconds[route])


def gauge(name: str, meaning: str, value: float, **labels: str) -> Family:
    """A gauge with one sample."""
    return Family(name, "gauge", meaning, [Sample("", labels, value)])


def render(families: Iterable[Family]) -> str:
    """OpenMetrics text, with its end mark."""
    lines: list[str] = []
    for family in families:
        lines += [f"# TYPE {family.name} {family.kind}", f"# HELP {family.name} {family.help}"]
        lines += [f"{family.name}{sample.suffix}{_labels(sample.labels)} {sample.value:g}" for sample in family.samples]
    return "\n".join([*lines, "# EOF", ""])


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
