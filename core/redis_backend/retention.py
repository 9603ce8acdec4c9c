"""Forgetting: the beginning of a log, and runs that ended long ago, through two scripts that check before they remove."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.core.errors import LogDiverged
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import Client
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.keys import PartitionKeys
from tailrace.core.redis_backend.together import MOST
from tailrace.core.store.retention import EndedRun, LogPlace


async def trim_log(
    client: Client, part: PartitionKeys, partition: int, epoch: str, *, first: LogPlace, count: int
) -> int:
    """One XTRIM of at most `count` entries; raises `LogDiverged`."""
    removed = int(await client.call(scripts.TRIM, [part.head, part.log], [epoch, first.entry_id, first.seq, count]))
    if removed < 0:
        raise LogDiverged(
            partition, f"it does not hold entry {first.entry_id} as number {first.seq}; nothing was trimmed"
        )
    return removed


async def expire_runs(client: Client, part: PartitionKeys, partition: int, epoch: str, runs: Sequence[EndedRun]) -> int:
    """One call for every few runs, one after the other, so that others get their turn; raises `LogDiverged`."""
    expired = 0
    for begin in range(0, len(runs), MOST):
        chosen = runs[begin : begin + MOST]
        args: list[Argument] = [epoch]
        for run in chosen:
            args += (run.workflow_id, run.version)
        keys = [part.head, part.expect, *(part.workflow(run.workflow_id) for run in chosen)]
        forgotten = int(await client.call(scripts.EXPIRE, keys, args))
        if forgotten < 0:
            raise LogDiverged(partition, "the log is not the one that this process joined; no run was forgotten")
        expired += forgotten
    return expired
