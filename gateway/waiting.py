"""Waiting for a run to end, on the feed: no polling, and bounded."""

from __future__ import annotations

import asyncio

from tailrace.core.errors import StoreUnavailable
from tailrace.core.partitioning import partition_of
from tailrace.core.workflow.history import Snapshot
from tailrace.gateway.services import Services


async def wait_ended(services: Services, snapshot: Snapshot, timeout_seconds: float) -> Snapshot:
    """The run once it has ended, or as it is after `timeout_seconds`; as it was when the store goes away meanwhile."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _ended(services, snapshot)
    except TimeoutError:
        pass
    except StoreUnavailable:
        return snapshot
    try:
        async with services.store_deadline():
            return await services.store.load(snapshot.state.workflow_id) or snapshot
    except StoreUnavailable:
        return snapshot


async def _ended(services: Services, snapshot: Snapshot) -> Snapshot:
    workflow_id = snapshot.state.workflow_id
    partition = partition_of(workflow_id, services.store.partitions)
    async with services.feed.subscribe([partition], workflow_id) as subscription:
        while not snapshot.state.terminal:
            snapshot = await services.store.load(workflow_id) or snapshot
            if snapshot.state.terminal or subscription.closed is not None:
                break
            await subscription.take(services.settings.max_wait_seconds)
    return snapshot
