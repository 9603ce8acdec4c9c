"""H12: definitions live in Redis under their content hash, so an open run never changes, and Postgres is on nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.core.events import WorkflowCreated
from tailrace.core.testing.builders import line
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit, record
from tests.support.bench import Bench


@pytest.mark.hole("H12")
async def test_h12_an_open_run_keeps_its_definition(
    bench: Bench, redis_server: EmbeddedRedis, namespace: str, tmp_path: Path
) -> None:
    """A newer version of the same name comes between: the run goes on by its own, in a process that never saw it before."""
    old = (await bench.prepare(line("first", "second"))).pipeline
    run = await bench.submit(old)
    new = (await bench.prepare(line("first", "other", "more"))).pipeline
    assert (await bench.store.latest("line")).hash == new.hash
    async with Bench.on(redis_server.url, tmp_path, partitions=None, namespace=namespace) as later:
        async with later.orchestrating(), later.working():
            await later.wait_status("completed", run)
            await later.submit(new, "newer")
            await later.wait_status("completed", "newer")
        assert list((await later.state(run)).stages) == ["first", "second"]
        assert list((await later.state("newer")).stages) == ["first", "other", "more"]


@pytest.mark.hole("H12")
async def test_h12_the_first_event_names_the_definition(bench: Bench) -> None:
    """By its hash and not by copy: a long definition does not make its runs long."""
    lengths = {}
    for count in (2, 40):
        definition = (await bench.prepare(line(*(f"stage-{number}" for number in range(count))))).pipeline
        run = await bench.submit(definition, f"run-of-{count:02}")
        created = record((await audit(bench.store))[run][0]).event
        assert isinstance(created, WorkflowCreated)
        assert created.definition == definition.hash
        snapshot = await bench.store.client.command("HGET", bench.part(run).workflow(run), "in")
        lengths[count] = len(snapshot)
        assert b"agent" not in snapshot
    assert lengths[40] - lengths[2] < 40 * len("stage-00") * 2
