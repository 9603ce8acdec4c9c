"""H38: the driver can't read its own reply to XCLAIM with JUSTID; no reply here passes through it."""

from __future__ import annotations

import pytest
import redis

from tailrace.core.testing.builders import line
from tests.support.bench import Bench


@pytest.mark.hole("H38")
async def test_h38_ids_alone_are_read_as_they_come(bench: Bench) -> None:
    """The same command, by the driver's own call and by ours. (When the driver is mended, this says so.)"""
    definition = (await bench.prepare(line("only"))).pipeline
    await bench.submit(definition)
    (delivery,) = await bench.queue().take(2, block_seconds=1)
    claim = ("XCLAIM", delivery.stream, "agent", "w2", 0, delivery.entry_id, "JUSTID")
    with redis.Redis.from_url(bench.store.client.settings.url) as driver, pytest.raises(TypeError):
        driver.execute_command(*claim)
    assert await bench.store.client.command(*claim) == [delivery.entry_id.encode()]
    (entry,) = await bench.open_entries(delivery.message.workflow_id)
    assert (entry.worker, entry.deliveries) == ("w2", 1)
