"""Faults of the store and of what is kept in it: full, gone, emptied, or with holes."""

from __future__ import annotations

import os

from tests.faults.case import why
from tests.faults.ground import Ground
from tests.faults.probe import Probe
from tests.faults.site import PATIENCE_SECONDS, one
from tests.support.waiting import eventually


@why("store-full")
async def store_full(ground: Ground, probe: Probe) -> None:
    """The memory of Redis is used up while a run waits for a worker."""
    async with ground.own_redis(mebibytes=16) as (site, _):
        await site.engine()
        run = await site.start(one("hungry", expect_start_seconds=600.0))
        block = os.urandom(64 * 1024)
        number = 0

        async def full() -> bool:
            nonlocal number
            number += 1
            try:
                await site.redis("SET", f"other:{number}", block)
            except Exception:  # noqa: BLE001  # full is what was wanted; what is left is taken in smaller pieces
                return True
            return await site.store.fullness() > 0.99

        await eventually(full, PATIENCE_SECONDS)
        await probe.explained(site, run)


@why("store-unreachable")
async def redis_gone(ground: Ground, probe: Probe) -> None:
    """Redis is stopped, and stays away."""
    async with ground.own_redis() as (site, server):
        await site.engine()
        run = await site.start(one("nowhere", expect_start_seconds=600.0))
        await server.kill()
        await probe.explained(site, run, log=False)
        await server.start()


@why("store-unreachable")
async def redis_hangs(ground: Ground, probe: Probe) -> None:
    """Redis is there, and answers nothing: it was stopped with SIGSTOP."""
    async with ground.own_redis() as (site, server):
        await site.engine()
        run = await site.start(one("nowhere", expect_start_seconds=600.0))
        server.pause()
        try:
            await probe.explained(site, run, log=False)
        finally:
            server.resume()


@why("log-diverged")
async def namespace_emptied(ground: Ground, probe: Probe) -> None:
    """Everything of the namespace is removed from Redis while a run is open."""
    async with ground.site() as site:
        await site.engine()
        run = await site.start(one("erased"))
        await site.empty()
        await probe.explained(site, run, log=False)


@why("log-diverged")
async def state_removed(ground: Ground, probe: Probe) -> None:
    """Somebody removed the state of one open run; its events are there."""
    site = await ground.shared()
    run = await site.start(one("headless", expect_start_seconds=600.0))
    await site.redis("DEL", site.part(run).workflow(run))
    await probe.explained(site, run)


@why("log-diverged")
async def state_garbled(ground: Ground, probe: Probe) -> None:
    """The state of one open run is bytes that nobody can read."""
    site = await ground.shared()
    run = await site.start(one("scrambled", expect_start_seconds=600.0))
    await site.redis("HSET", site.part(run).workflow(run), "s", b"\xc1\xc1")
    await probe.explained(site, run)
