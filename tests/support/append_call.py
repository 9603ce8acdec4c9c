"""The script call that carries out appends of one partition, for tests that send or spoil it themselves."""

from __future__ import annotations

from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend import appending
from tailrace.core.redis_backend.connection import Call
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Append


def append_call(store: RedisStore, *appends: Append) -> Call:
    """As the store makes it."""
    partition = partition_of(appends[0].workflow_id, store.partitions)
    return appending.call(appends, store.keys.partition(partition), store._epochs[partition])
