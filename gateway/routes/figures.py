"""`/metrics`: OpenMetrics text.

Figures of the store and of the read model are read at the time of asking, and left out when it can't be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from tailrace.core.clock import SECOND
from tailrace.core.errors import TailraceError
from tailrace.core.store.port import PartitionFacts, Queue
from tailrace.gateway.metrics import CONTENT_TYPE, Family, Sample, gauge, render
from tailrace.gateway.services import Services, services_of
from tailrace.projections.lag import Lag, measure_lag
from tailrace.projections.rows import CheckpointRow


def routes() -> Sequence[web.RouteDef]:
    """The routes of this module; they have no prefix."""
    return [web.get("/metrics", metrics)]


async def metrics(request: web.Request) -> web.Response:
    """All figures of this gateway, and those of the store."""
    services = services_of(request)
    families = [*services.metrics.families(), *await _store(services), *await _projections(services)]
    return web.Response(text=render(families), headers={"Content-Type": CONTENT_TYPE})


async def _store(services: Services) -> list[Family]:
    store = services.store
    try:
        async with services.store_deadline():
            queues = await store.queues(await store.agents())
            facts = [await store.partition_facts(number) for number in range(store.partitions)]
            fullness = await store.fullness()
    except TailraceError:
        return [gauge("tailrace_store_up", "Whether the store answered.", 0)]
    return [
        gauge("tailrace_store_up", "Whether the store answered.", 1),
        gauge("tailrace_store_fullness_ratio", "Used share of the store's memory.", fullness),
        _of_queues("tailrace_tasks_backlog", "Tasks that nobody holds.", queues, lambda queue: queue.backlog),
        _of_queues("tailrace_tasks_in_flight", "Tasks that a worker holds.", queues, lambda queue: queue.pending),
        _of_queues(
            "tailrace_tasks_oldest_seconds",
            "Age of the oldest task that nobody holds.",
            queues,
            lambda queue: queue.oldest_age_us / SECOND,
        ),
        _of_partitions("tailrace_reports_waiting", "Reports that are not applied.", facts, lambda fact: fact.reports),
        _of_partitions("tailrace_timers_overdue", "Timers past their time.", facts, lambda fact: fact.overdue_timers),
        _of_partitions("tailrace_parked", "Entries that could not be read.", facts, lambda fact: fact.parked),
    ]


async def _projections(services: Services) -> list[Family]:
    """How far the read models are behind the log, as far as both can be asked."""
    try:
        rows = await services.queries.checkpoints()
        parked = await services.queries.parked_runs()
    except TailraceError:
        return [gauge("tailrace_read_model_up", "Whether the read model answered.", 0)]
    families = [gauge("tailrace_read_model_up", "Whether the read model answered.", 1), _of_parked(rows, parked)]
    try:
        async with services.store_deadline():
            lags = await measure_lag(services.store, rows)
    except TailraceError:
        return families
    return [
        *families,
        _of_lags("tailrace_projection_lag_events", "Events that are not projected.", lags, lambda lag: lag.events),
        _of_lags(
            "tailrace_projection_lag_seconds",
            "Age of the oldest event that is not projected.",
            lags,
            lambda lag: lag.seconds,
        ),
    ]


def _of_parked(rows: Sequence[CheckpointRow], parked: Mapping[int, int]) -> Family:
    samples = [
        Sample("", {"partition": str(partition)}, parked.get(partition, 0))
        for partition in sorted({row.partition for row in rows})
    ]
    return Family("tailrace_projection_parked_runs", "gauge", "Runs that no projection could go on with.", samples)


def _of_lags(name: str, meaning: str, lags: Sequence[Lag], value: Callable[[Lag], float]) -> Family:
    samples = [Sample("", {"projection": lag.projection, "partition": str(lag.partition)}, value(lag)) for lag in lags]
    return Family(name, "gauge", meaning, samples)


def _of_queues(name: str, meaning: str, queues: Sequence[Queue], value: Callable[[Queue], float]) -> Family:
    samples = [Sample("", {"agent": queue.agent, "partition": str(queue.partition)}, value(queue)) for queue in queues]
    return Family(name, "gauge", meaning, samples)


def _of_partitions(
    name: str, meaning: str, facts: Sequence[PartitionFacts], value: Callable[[PartitionFacts], float]
) -> Family:
    return Family(
        name, "gauge", meaning, [Sample("", {"partition": str(fact.partition)}, value(fact)) for fact in facts]
    )
