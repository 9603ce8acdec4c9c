"""A server that is killed with -9 under load, with AOF always: nothing acknowledged is lost, and nothing is partial."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from tailrace.core.errors import StoreUnavailable
from tailrace.core.events import TaskFailed
from tailrace.core.testing.builders import create_workflow, diamond
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit, decided_again, record
from tests.support.bench import Bench
from tests.support.waiting import beside, pass_server_time

KILLS = 3
CLIENTS = 2

log = logging.getLogger(__name__)


@pytest.mark.failure(9)
@pytest.mark.experiment("g")
async def test_killed_under_load_nothing_acknowledged_is_lost(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """After each kill every run is the fold of its log, and in the end each acknowledged run has completed."""
    bench, seed = own_bench, random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    runner = await bench.prepare(diamond())
    acknowledged: dict[str, int] = {}
    stop = asyncio.Event()

    async def submit(client: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            run = f"run-{client}-{number}"
            try:
                # (One append without any second try: what is acknowledged is what the server said.)
                append = await runner.decide(run, create_workflow(runner.pipeline, run))
                (appended,) = await bench.store.append([append])
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                assert appended.outcome == "ok"
                acknowledged[run] = appended.version

    async with bench.orchestrating(), bench.working("w1"), bench.working("w2"):
        async with beside(*(submit(client) for client in range(CLIENTS))):
            for _ in range(KILLS):
                await pass_server_time(bench.store, 0.3 + dice.random() * 0.4)
                await own_server.kill()
                known = dict(acknowledged)
                await own_server.start()
                states = await bench.store.load_states(list(known))
                assert all(state is not None and state.version >= 2 for state in states)
            stop.set()
        await bench.wait_status("completed", *acknowledged, timeout=40.0)
    assert acknowledged
    logs = await audit(bench.store)
    assert acknowledged.keys() <= logs.keys()
    for entries in logs.values():
        assert not any(isinstance(record(entry).event, TaskFailed) for entry in entries)
        assert await decided_again(bench.store, entries) == [(entry.type, entry.data) for entry in entries]
    assert await bench.reports() == []
    log.warning("%d runs acknowledged, %d in the log, %d kills", len(acknowledged), len(logs), KILLS)
