"""A worker's name: nobody else's on this host, and the same again after a restart."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

PROGRAM = """
import pathlib, sys
from tailrace.infra.processes.worker import stable_name
print(stable_name(pathlib.Path(sys.argv[1]), "main", sys.argv[2]), flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def named(folder: Path, agent: str = "agent") -> AsyncIterator[str]:
    """The name of a worker that lives with the block; it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(folder), agent),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            name = (await process.stdout.readline()).decode().strip()
        yield name
    finally:
        process.kill()
        await process.communicate()


async def test_two_data_directories_on_one_host_share_no_name(tmp_path: Path) -> None:
    """Not side by side, and not one after the other: the tasks of one are never taken for those of the other."""
    async with named(tmp_path / "a") as first, named(tmp_path / "b") as second:
        assert first.startswith(f"{socket.gethostname()}-")
        assert first != second
    async with named(tmp_path / "b") as again:
        assert again == second


@pytest.mark.failure(5)
async def test_a_name_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """The one that comes back has the name that is free, whoever else lives there: its pending tasks are its own."""
    async with AsyncExitStack() as others:
        async with named(tmp_path) as first:
            second = await others.enter_async_context(named(tmp_path))
            assert second != first
        async with named(tmp_path) as again:
            assert again == first


async def test_workers_that_begin_at_once_agree_on_their_place(tmp_path: Path) -> None:
    """In a new directory: one id, and a number for each."""
    async with AsyncExitStack() as living:
        begun = [named(tmp_path) for _ in range(4)]
        names = await asyncio.gather(*(living.enter_async_context(each) for each in begun))
    places, numbers = zip(*(name.rsplit("-", 1) for name in names), strict=True)
    assert len(set(places)) == 1
    assert sorted(numbers) == ["1", "2", "3", "4"]
