"""H33: a server whose settings undo what is promised is named, setting by setting, with what to do."""

from __future__ import annotations

import pytest

from tailrace.projections.watchdog import Check, check_store
from tests.support.bench import Bench
from tests.support.waiting import eventually

#: What is set wrong, what it should be, and how bad that is.
WRONG = (
    ("appendonly", "no", "yes", "failed"),
    ("appendfsync", "everysec", "always", "warning"),
    ("no-appendfsync-on-rewrite", "yes", "no", "warning"),
    ("maxmemory-policy", "allkeys-lru", "noeviction", "failed"),
    ("maxmemory", "0", "268435456", "warning"),
)


async def bad(bench: Bench) -> list[Check]:
    """What is wrong with the server."""
    checks = await check_store(bench.store)
    return [check for check in checks if check.name in {"durability", "memory"} and check.status != "ok"]


@pytest.mark.hole("H33")
async def test_h33_each_wrong_setting_is_named(own_bench: Bench) -> None:
    """One after the other: exactly that one is named, and with it what mends it."""
    client = own_bench.store.client
    assert await bad(own_bench) == []
    for name, wrong, right, status in WRONG:
        await client.command("CONFIG", "SET", name, wrong)
        (check,) = await bad(own_bench)
        assert (check.status, name in check.detail) == (status, True), check
        assert check.suggestion.startswith(f"CONFIG SET {name} ")
        await client.command("CONFIG", "SET", name, right)
        assert await bad(own_bench) == []
    # (Switched on again, the server writes its file anew, and does not end before it has.)
    await eventually(lambda: is_written(own_bench))


async def is_written(bench: Bench) -> bool:
    """Whether the append-only file is whole."""
    return b"aof_rewrite_in_progress:0" in await bench.store.client.command("INFO", "persistence")
