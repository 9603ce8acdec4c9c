"""How long a page of the list takes over HTTP, with few and with many runs in Postgres, for each filter: it must not grow.

The rows are made by SQL, as a projector would leave them after years: most have completed, few are open.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import asyncpg
import msgspec
from rich.table import Table

from tailrace.infra.processes.running import run_loop
from tests.bench.deployment import running_up
from tests.bench.peers.contract import check
from tests.bench.percentile import percentile

#: How many rows one statement makes.
STEP: Final = 100_000
#: A filter is asked so often, or for so long.
REQUESTS: Final = 40
SECONDS: Final = 3.0
#: Asked before, uncounted: connections, plans and pages of the tables are there then.
WARM: Final = 3
#: How much longer a page may take with the most rows than with the fewest, and from how many milliseconds on that counts.
AIM_RATIO: Final = 2.0
FAST_MS: Final = 10.0

#: What is asked: a name, and the fields of the query.
FILTERS: Final[dict[str, dict[str, str]]] = {
    "no filter": {},
    "status, most runs": {"status": "completed"},
    "status, 3 %": {"status": "failed"},
    "status, 0.1 %": {"status": "running"},
    "three statuses, 0.1 %": {"status": "initiated,running,paused"},
    "type, 5 %": {"type": "bugfix"},
    "label, 50 %": {"label": "tier=gold"},
    "label, 5 %": {"label": "team=t7"},
    "label, 1 in 5,000": {"label": "customer=c17"},
    "label that nothing has": {"label": "customer=nobody"},
    "input, 50 %": {"input": '{"region": "eu"}'},
    "input, 1 in 5,000": {"input": '{"customer": {"id": 17}}'},
    "input, one run": {"input": '{"order": 4711}'},
    "input that nothing has": {"input": '{"order": -1}'},
    "status, type and label": {"status": "failed", "type": "bugfix", "label": "team=t7"},
    "stalled": {"stalled": "true"},
    "part of a name, 1 %": {"q": "shop 42"},
    "part of a name that nothing has": {"q": "nowhere"},
}

#: Rows $1 to $2.
ROWS: Final = """
INSERT INTO tailrace.workflows (
    workflow_id, partition, type, name, description, requirements, definition, status, current_stage, progress_percentage,
    version, trace_id, labels, input, stall, created_at, updated_at, completed_at
)
SELECT
    lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000', n % 2,
    CASE WHEN kind < 80 THEN 'app' WHEN kind < 95 THEN 'feature' ELSE 'bugfix' END,
    'shop ' || any_of % 100 || ' of ' || n, 'an app that adds and subtracts', 'adds, subtracts', repeat('d', 64),
    status, CASE WHEN status = 'running' THEN 'validation' END, CASE WHEN status = 'running' THEN 40 ELSE 100 END,
    23, md5(n::text),
    jsonb_build_object(
        'team', 't' || any_of % 20, 'tier', CASE WHEN any_of / 7 % 2 = 0 THEN 'gold' ELSE 'free' END,
        'customer', 'c' || any_of / 3 % 5000
    ),
    jsonb_build_object(
        'order', n, 'region', CASE WHEN any_of / 5 % 2 = 0 THEN 'eu' ELSE 'us' END,
        'customer', jsonb_build_object('id', any_of / 3 % 5000)
    ),
    CASE WHEN status = 'running' AND n % 2 = 0
        THEN '{"cause": "no-worker", "hop": "delivery", "since": "", "summary": ""}'::jsonb END,
    at, at + interval '10 seconds', CASE WHEN status <> 'running' THEN at + interval '10 seconds' END
FROM (
    SELECT
        n, any_of, any_of / 11 % 100 AS kind, timestamptz '2026-01-01' + n * interval '1 second' AS at,
        CASE WHEN any_of / 13 % 1000 < 1 THEN 'running' WHEN any_of / 13 % 1000 < 31 THEN 'failed'
             WHEN any_of / 13 % 1000 < 40 THEN 'cancelled' ELSE 'completed' END AS status
    FROM (SELECT n, hashint4(n) & 2147483647 AS any_of FROM generate_series($1::integer, $2::integer) AS n) AS drawn
) AS made
"""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A page of 50 runs under one filter, out of so many rows; `items` is how many it had."""

    filter: str
    rows: int
    items: int
    p50_ms: float
    p99_ms: float


def measure_lists(folder: Path, sizes: Sequence[int], say: Callable[[str], None]) -> Iterator[Listed]:
    """Every filter at every number of rows, fewest first."""
    with running_up(folder, "--agents", "") as deployment:
        before = 0
        for size in sizes:
            say(f"{size:,} rows")
            run_loop(_fill(deployment.postgres_url, before, size))
            before = size
            connection = http.client.HTTPConnection(urlsplit(deployment.url).netloc, timeout=30)
            for name, query in FILTERS.items():
                yield _measure(connection, name, query, size)
            connection.close()


async def _fill(url: str, before: int, size: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        for first in range(before, size, STEP):
            await connection.execute(ROWS, first + 1, min(first + STEP, size))
        # As it is once the server's own upkeep has been there.
        await connection.execute("VACUUM ANALYZE tailrace.workflows")
    finally:
        await connection.close()


def _measure(connection: http.client.HTTPConnection, name: str, query: dict[str, str], rows: int) -> Listed:
    path = f"/api/v1/workflows?{urlencode({**query, 'limit': '50'})}"
    seconds: list[float] = []
    ends = time.monotonic() + SECONDS
    items = [_ask(connection, path) for _ in range(WARM)][-1]
    while not seconds or (len(seconds) < REQUESTS and time.monotonic() < ends):
        begun = time.perf_counter()
        _ask(connection, path)
        seconds.append(time.perf_counter() - begun)
    return Listed(
        filter=name,
        rows=rows,
        items=items,
        p50_ms=1000 * percentile(seconds, 0.5),
        p99_ms=1000 * percentile(seconds, 0.99),
    )


def _ask(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    check(holds=response.status == 200, otherwise=f"{path} was answered with {response.status}: {body[:200]!r}")
    document: dict[str, Any] = json.loads(body)
    return len(document["items"])


def list_table(measured: Sequence[Listed]) -> Table:
    """A row for each filter, a column for each number of rows; what grows is red."""
    sizes = list(dict.fromkeys(found.rows for found in measured))
    table = Table("filter", *(f"{size:,} rows, p50 / p99" for size in sizes), title="a page of 50 runs, over HTTP")
    for name in dict.fromkeys(found.filter for found in measured):
        found = [one for one in measured if one.filter == name]
        table.add_row(name, *(_shown(one, found[0]) for one in found))
    return table


def _shown(found: Listed, fewest: Listed) -> str:
    style = "green" if is_flat(found.p50_ms, fewest.p50_ms) else "red"
    return f"[{style}]{found.p50_ms:.1f} / {found.p99_ms:.1f} ms[/{style}] ({found.items})"


def is_flat(most_ms: float, fewest_ms: float) -> bool:
    """Whether a page does not grow with the number of rows, as far as anybody would notice."""
    return most_ms <= max(FAST_MS, AIM_RATIO * fewest_ms)
