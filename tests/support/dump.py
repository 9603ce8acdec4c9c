"""Everything a namespace holds, as bytes: to find that nothing was written."""

from __future__ import annotations

from tailrace.core.redis_backend.store import RedisStore


async def dump(store: RedisStore) -> dict[bytes, bytes]:
    """Every key of the store's namespace with its serialised value, the pending lists of streams included."""
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, page = await store.client.command("SCAN", cursor, "MATCH", f"*{store.keys.namespace}*", "COUNT", 1000)
        found += page
        if cursor == b"0":
            break
    names = sorted(set(found))
    values = await store.client.pipeline([("DUMP", name) for name in names])
    return dict(zip(names, values, strict=True))
