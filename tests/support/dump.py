"""Everything a namespace holds: to find that nothing was written."""

from __future__ import annotations

from typing import Any

from tailrace.core.redis_backend.store import RedisStore


async def dump(store: RedisStore) -> dict[bytes, Any]:
    """Every key of the store's namespace with its serialised value, the pending lists of streams included.

    Hashes, sets and sorted sets are read field by field: the server may put their tables in another order at any time.
    """
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, page = await store.client.command("SCAN", cursor, "MATCH", f"*{store.keys.namespace}*", "COUNT", 1000)
        found += page
        if cursor == b"0":
            break
    names = sorted(set(found))
    kinds = await store.client.pipeline([("TYPE", name) for name in names])
    return {name: await _value(store, name, kind) for name, kind in zip(names, kinds, strict=True)}


async def _value(store: RedisStore, name: bytes, kind: bytes) -> Any:
    match kind:
        case b"hash":
            flat = await store.client.command("HGETALL", name)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        case b"set":
            return sorted(await store.client.command("SMEMBERS", name))
        case b"zset":
            return await store.client.command("ZRANGE", name, 0, -1, "WITHSCORES")
        case _:
            return await store.client.command("DUMP", name)
