"""H11: a full disk. A server that syncs always ends by it, a weaker one refuses; nothing acknowledged is lost either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.core.errors import StoreFull, StoreUnavailable
from tailrace.core.testing.builders import create_workflow, diamond, line
from tailrace.core.testing.runner import Runner
from tailrace.infra.commands.doctor import collect_checks
from tailrace.infra.config import Settings
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog import Check, check_store, diagnose
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.servers import redis_program
from tests.support.small_disk import Kind, SmallDisk, small_disk
from tests.support.waiting import beside, eventually

CLIENTS = 2


class Submitting:
    """Clients that start runs, one append each without a second try: what is acknowledged is what the server said."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.acknowledged: set[str] = set()
        self.problems: list[str] = []
        self.stopped = asyncio.Event()

    async def submit(self, client: int) -> None:
        """Until stopped."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            run = f"run-{client}-{number}"
            try:
                append = await self.runner.decide(run, create_workflow(self.runner.pipeline, run))
                (appended,) = await self.runner.store.append([append])
            except (StoreUnavailable, StoreFull) as error:
                self.problems.append(str(error))
                await asyncio.sleep(0.02)
            else:
                assert appended.outcome == "ok"
                self.acknowledged.add(run)

    async def wait_acknowledged(self, more: int) -> None:
        """Until so many more were."""
        known = len(self.acknowledged)

        async def enough() -> bool:
            return len(self.acknowledged) >= known + more

        await eventually(enough)


def settings(url: str, folder: Path) -> Settings:
    """Of somebody who asks what is wrong."""
    return Settings(redis_url=url, data_dir=folder)


async def failed(settings: Settings) -> dict[str, Check]:
    """What `tailrace doctor` finds wrong, by name."""
    return {check.name: check for check in await collect_checks(settings) if check.status == "failed"}


@pytest.mark.hole("H11")
@pytest.mark.parametrize("kind", ["best", "limited"])
async def test_h11_a_full_disk_ends_a_server_that_syncs_always(tmp_path: Path, kind: Kind) -> None:
    """It ends at the first write that it can't keep, and says so; `why` and `doctor` say what to do. With room, and started
    again, it has all that was acknowledged, and every run comes to its end.
    """
    with small_disk(tmp_path / "disk", 24, kind) as disk:
        async with (
            EmbeddedRedis(disk.folder / "redis", server=redis_program(), maxmemory_bytes=256 * 1024 * 1024) as server,
            Bench.on(server.url, tmp_path) as bench,
        ):
            runner = await bench.prepare(diamond())
            submitting = Submitting(runner)
            async with bench.orchestrating(), bench.working("w1", files=False, concurrency=8):
                async with beside(*(submitting.submit(client) for client in range(CLIENTS))):
                    await submitting.wait_acknowledged(20)
                    disk.fill(server)
                    async with asyncio.timeout(20):
                        code = await server.wait()
                    assert code != 0
                    known = set(submitting.acknowledged)
                    (run, *_) = known
                    diagnosis = await diagnose(bench.store, run)
                    assert (diagnosis.cause, diagnosis.suggestion) == ("store-unreachable", "tailrace doctor")
                    found = await failed(settings(server.url, disk.folder))
                    assert "a full disk ends it" in found["redis"].suggestion
                    if disk.kind == "tmpfs":
                        assert "0 MiB are free" in found["disk"].detail
                        assert "make room" in found["disk"].suggestion
                    disk.free(server)
                    await server.start()
                    states = await bench.store.load_states(sorted(known))
                    assert all(state is not None and state.version >= 2 for state in states), (
                        "what was acknowledged is there"
                    )
                    await submitting.wait_acknowledged(5)
                    submitting.stopped.set()
                await bench.wait_status("completed", *submitting.acknowledged, timeout=40.0)
            assert await audit(bench.store)
            assert await bench.reports() == []


@pytest.fixture
async def weak(tmp_path: Path) -> AsyncIterator[tuple[SmallDisk, EmbeddedRedis, Bench]]:
    """A server that syncs each second, on a small disk."""
    with small_disk(tmp_path / "disk", 24) as disk:
        async with (
            EmbeddedRedis(disk.folder / "redis", server=redis_program(), maxmemory_bytes=256 * 1024 * 1024) as server,
            Bench.on(server.url, tmp_path) as bench,
        ):
            await bench.store.client.command("CONFIG", "SET", "appendfsync", "everysec")
            yield disk, server, bench


@pytest.mark.hole("H11")
async def test_h11_a_full_disk_makes_a_weaker_server_refuse(weak: tuple[SmallDisk, EmbeddedRedis, Bench]) -> None:
    """It is there and keeps nothing: that is a full store, and said to be. With room it goes on by itself.

    (Where the machine allows no small disk, the limit that stands for it ends this server, which promises little then.)
    """
    disk, server, bench = weak
    runner = await bench.prepare(line("only"))
    submitting = Submitting(runner)
    async with beside(*(submitting.submit(client) for client in range(CLIENTS))):
        await submitting.wait_acknowledged(20)
        disk.fill(server)

        async def refused() -> bool:
            return bool(submitting.problems)

        await eventually(refused)
        known = set(submitting.acknowledged)
        (run, *_) = known
        if disk.kind == "tmpfs":
            assert any("No space left" in problem for problem in submitting.problems), submitting.problems
            assert server.running
            assert await bench.store.fullness() == 1.0
            with pytest.raises(StoreFull):
                await bench.submit(runner.pipeline, "refused")
            diagnosis = await diagnose(bench.store, run)
            causes = [diagnosis.cause, *(found.cause for found in diagnosis.secondary)]
            assert "store-full" in causes, diagnosis
            (check,) = [check for check in await check_store(bench.store) if check.name == "disk"]
            assert (check.status, "make room" in check.suggestion) == ("failed", True)
        disk.free(server)
        await server.start()
        await submitting.wait_acknowledged(5)
        submitting.stopped.set()
    if disk.kind == "tmpfs":
        states = await bench.store.load_states(sorted(known))
        assert all(state is not None for state in states), "what was acknowledged is there"
    async with bench.orchestrating(), bench.working("w1", files=False, concurrency=8):
        await bench.wait_status("completed", *(submitting.acknowledged - known), timeout=40.0)
    await audit(bench.store)
