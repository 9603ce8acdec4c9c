"""Does what the schedule says, and counts it. No target has two faults at once; what is not possible now is left out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tailrace.infra.embedded import EmbeddedServer
from tailrace.infra.supervise import DEATHS, DEATHS_SECONDS
from tests.chaos.schedule import Fault, Kind
from tests.chaos.world import World
from tests.support.fault_proxy import FaultProxy

#: The supervisor leaves a process down that dies too often; one death is left for what happens by itself.
KILLS: Final = DEATHS - 2


class Injector:
    """`injected` counts by kind and target; `skipped` are those whose target had another fault, or was down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._busy: set[str] = set()
        self._kills: dict[str, list[float]] = {}
        self.injected: Counter[str] = Counter()
        self.skipped = 0
        redis, postgres = world.redis_proxy, world.postgres_proxy
        self._ways: dict[Kind, Callable[[Fault], Awaitable[bool]]] = {
            "kill process": self._kill,
            "stop process": self._stop,
            "kill redis": lambda fault: _restart(world.redis, world.redis.kill, fault),
            "stop redis": lambda fault: _pause(world.redis, fault),
            "end postgres": lambda fault: _restart(world.postgres, world.postgres.stop, fault),
            "kill postgres": lambda fault: _restart(world.postgres, world.postgres.kill, fault),
            "cut redis": lambda fault: _cut(redis),
            "cut postgres": lambda fault: _cut(postgres),
            "refuse redis": lambda fault: _refuse(redis, fault),
            "delay redis": lambda fault: _delay(redis, fault),
            "delay postgres": lambda fault: _delay(postgres, fault),
            "lose redis reply": lambda fault: _lose_reply(redis, b"EVALSHA", fault),
            "lose redis request": lambda fault: _lose_request(redis, b"EVALSHA", fault),
            "lose postgres reply": lambda fault: _lose_reply(postgres, b"COMMIT", fault),
        }

    async def run(self, faults: Sequence[Fault], seconds: float) -> None:
        """All faults at their times; returns when the last one has ended, not before `seconds` have passed."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                group.create_task(self._inject(fault))
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        self._world.redis_proxy.heal()
        self._world.postgres_proxy.heal()

    async def _inject(self, fault: Fault) -> None:
        if fault.target in self._busy:
            self.skipped += 1
            return
        self._busy.add(fault.target)
        try:
            done = await self._ways[fault.kind](fault)
        finally:
            self._busy.discard(fault.target)
        if done:
            self.injected[fault.kind if fault.target in fault.kind else f"{fault.kind} {fault.target}"] += 1
        else:
            self.skipped += 1

    async def _kill(self, fault: Fault) -> bool:
        now = time.monotonic()
        recent = [at for at in self._kills.get(fault.target, []) if now - at < DEATHS_SECONDS]
        if len(recent) >= KILLS or self._world.signal(fault.target, signal.SIGKILL) is None:
            return False
        self._kills[fault.target] = [*recent, now]
        return True

    async def _stop(self, fault: Fault) -> bool:
        pid = self._world.signal(fault.target, signal.SIGSTOP)
        if pid is None:
            return False
        try:
            await asyncio.sleep(fault.lasts)
        finally:
            self._world.resume(pid)
        return True


async def _restart(server: EmbeddedServer, end: Callable[[], Awaitable[int]], fault: Fault) -> bool:
    await end()
    await asyncio.sleep(fault.lasts)
    await server.start()
    return True


async def _pause(server: EmbeddedServer, fault: Fault) -> bool:
    server.pause()
    try:
        await asyncio.sleep(fault.lasts)
    finally:
        server.resume()
    return True


async def _cut(proxy: FaultProxy) -> bool:
    proxy.cut()
    return True


async def _refuse(proxy: FaultProxy, fault: Fault) -> bool:
    proxy.refusing = True
    proxy.cut()
    await asyncio.sleep(fault.lasts)
    proxy.refusing = False
    return True


async def _delay(proxy: FaultProxy, fault: Fault) -> bool:
    proxy.delay_seconds = fault.delay_seconds
    await asyncio.sleep(fault.lasts)
    proxy.delay_seconds = 0.0
    return True


async def _lose_reply(proxy: FaultProxy, to: bytes, fault: Fault) -> bool:
    proxy.lose_reply(to=to, times=fault.times)
    return True


async def _lose_request(proxy: FaultProxy, with_bytes: bytes, fault: Fault) -> bool:
    proxy.lose_request(with_bytes=with_bytes, times=fault.times)
    return True
