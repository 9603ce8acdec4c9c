"""H6, H7: a log that went back or was trimmed is silent in Redis; `has_entry` and `seq` tell."""

from __future__ import annotations

import shutil

import pytest

from tailrace.core.testing.builders import line, workflow_id_in
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit, whole_log
from tests.support.bench import Bench


@pytest.mark.hole("H6")
async def test_h06_a_log_that_went_back_is_told_by_its_entry_and_its_seq(
    own_server: EmbeddedRedis, own_bench: Bench
) -> None:
    """A backup is restored under a reader: its checkpoint's entry is gone, and what it would read next does not follow."""
    bench = own_bench
    definition = (await bench.prepare(line("first", "second"))).pipeline
    for number in (1, 2):
        await bench.submit(definition, workflow_id_in(0, 2, number=number))
    log = own_server.data_dir / "appendonlydir"
    await own_server.stop()
    shutil.copytree(log, own_server.data_dir / "backup")
    await own_server.start()
    for number in (3, 4):
        await bench.submit(definition, workflow_id_in(0, 2, number=number))
    checkpoint = (await whole_log(bench.store, 0))[-1]
    assert await bench.store.has_entry(0, checkpoint.entry_id)

    await own_server.stop()
    log.rename(own_server.data_dir / "lost")
    (own_server.data_dir / "backup").rename(log)
    await own_server.start()
    assert not await bench.store.has_entry(0, checkpoint.entry_id)
    assert (await bench.store.head(0)).seq < checkpoint.seq
    for number in (5, 6, 7, 8):
        await bench.submit(definition, workflow_id_in(0, 2, number=number))
    # Redis itself goes on behind the old position as if nothing had been there.
    following = await bench.store.read_log(0, checkpoint.entry_id, count=1)
    assert following
    assert following[0].seq != checkpoint.seq + 1
    assert not await bench.store.has_entry(0, checkpoint.entry_id)
    # The log in itself is sound.
    assert len(await audit(bench.store)) == 6


@pytest.mark.hole("H7")
async def test_h07_a_trimmed_log_is_told_by_its_seq(bench: Bench) -> None:
    """A read behind a position that was trimmed begins where the log begins; `seq` shows the hole."""
    definition = (await bench.prepare(line("first", "second"))).pipeline
    for number in range(1, 6):
        await bench.submit(definition, workflow_id_in(0, 2, number=number))
    entries = await whole_log(bench.store, 0)
    await bench.store.client.command("XTRIM", bench.store.keys.partition(0).log, "MAXLEN", 4)
    (following,) = await bench.store.read_log(0, entries[2].entry_id, count=1)
    assert following.seq == 7
    assert not await bench.store.has_entry(0, entries[2].entry_id)
    # A reader at the edge has lost nothing, though the entry of its checkpoint is gone.
    (following,) = await bench.store.read_log(0, entries[5].entry_id, count=1)
    assert (following.seq, entries[5].seq) == (7, 6)
    assert (await bench.store.head(0)).seq == 10
