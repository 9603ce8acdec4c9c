"""The server's own limit: how many entries of a given size it takes with XADD, 50 to a pipeline, on the settings it has.

`redis-benchmark` says so where there is one, on PATH or beside the server; else a client of our own that sends what was
packed before. What the engine appends in a second is set against that.
"""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import hiredis
import msgspec
from redis.asyncio.connection import ConnectKwargs, parse_url
from rich.table import Table

from tests.bench.deployment import Deployment
from tests.bench.load import Load
from tests.bench.logged import fields
from tests.bench.peers.contract import check
from tests.bench.throughput import Throughput

PROGRAMS: Final = ("valkey-benchmark", "redis-benchmark")
PIPELINE: Final = 50
CLIENTS: Final = 4
#: Where the entries go; removed afterwards.
KEY: Final = "bench:limit"


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Plain XADDs per second, and `measured_by` which client; of the engine's events per second, the `shares` of them."""

    server: str
    appendfsync: str
    measured_by: str
    entry_bytes: int
    xadds_per_second: float
    shares: dict[str, float]


async def measure_limit(load: Load, deployment: Deployment, *, entries: int, full: Sequence[Throughput]) -> Limit:
    """Send so many entries, like those that were appended at `full` load, and as long as they were on average."""
    event_bytes = full[0].event_bytes
    (like,) = await load.store.read_log(0, "0-0", count=1)
    body = [(name, value.decode()) for name, value in fields(like) if name != "data"]
    rest = sum(len(name) + len(value) for name, value in body) + len("data")
    command = ["XADD", KEY, "*"]
    for name, value in [*body, ("data", "x" * max(1, round(event_bytes) - rest))]:
        command += [name, value]
    program = benchmark_program(deployment.program("redis"))
    rate = await (
        own_rate(deployment.redis_url, command, entries)
        if program is None
        else _rate(program, deployment.redis_url, command, entries)
    )
    await load.store.client.command("UNLINK", KEY)
    settings = await load.store.settings()
    return Limit(
        server=f"{settings['server']} {settings['version']}",
        appendfsync=settings.get("appendfsync", "unknown"),
        measured_by=f"own client, {CLIENTS} connections" if program is None else f"{program}, {CLIENTS} clients",
        entry_bytes=round(event_bytes),
        xadds_per_second=rate,
        shares={found.title: found.events_per_second / rate for found in full},
    )


def benchmark_program(server: Path) -> str | None:
    """The program beside the server's, or on PATH."""
    return next(
        (found for name in PROGRAMS if (found := shutil.which(name, path=f"{server.parent}:{os.environ['PATH']}"))),
        None,
    )


async def _rate(program: str, redis_url: str, command: Sequence[str], entries: int) -> float:
    place = parse_url(redis_url)
    where = ["-s", place["path"]] if "path" in place else ["-h", place["host"], "-p", str(place["port"])]
    options = ["-a", place["password"], "-c", str(CLIENTS), "-P", str(PIPELINE), "-n", str(entries), "--csv"]
    process = await asyncio.create_subprocess_exec(
        program,
        *where,
        *options,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    rate = rate_said(out.decode(errors="replace"))
    check(holds=rate is not None, otherwise=f"{program} said {out[-300:]!r}")
    return rate or 0.0


def rate_said(out: str) -> float | None:
    """The requests per second in the CSV of `redis-benchmark`; None when there are none."""
    for row in csv.reader(out.splitlines()):
        if row and row[0].startswith("XADD "):
            return float(row[1])
    return None


async def own_rate(redis_url: str, command: Sequence[str], entries: int) -> float:
    """The same with connections of our own."""
    place = parse_url(redis_url)
    batch = _packed(*command) * PIPELINE
    batches = max(1, entries // (PIPELINE * CLIENTS))
    connections = [await _connection(place) for _ in range(CLIENTS)]

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(batches):
            writer.write(batch)
            lines = 0
            while lines < 2 * PIPELINE:  # the length of an entry's id, and the id
                said = await reader.read(65536)
                check(
                    holds=said.startswith((b"$", b"\r", b"\n")) or said[:1].isdigit(),
                    otherwise=f"the server said {said[:80]!r}",
                )
                lines += said.count(b"\n")

    try:
        begun = time.perf_counter()
        await asyncio.gather(*(send(*connection) for connection in connections))
        return batches * PIPELINE * CLIENTS / (time.perf_counter() - begun)
    finally:
        for _, writer in connections:
            writer.close()


async def _connection(place: ConnectKwargs) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await (
        asyncio.open_unix_connection(place["path"])
        if "path" in place
        else asyncio.open_connection(place["host"], place["port"])
    )
    writer.write(_packed("AUTH", place["password"]))
    said = await reader.readline()
    check(holds=said == b"+OK\r\n", otherwise=f"the server answered {said!r}")
    return reader, writer


def _packed(*words: str) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stubs say that a command has one word
    return packed


def limit_table(limit: Limit) -> Table:
    """The share, and what it is of."""
    table = Table(title="cost against the limit of the server", show_header=False)
    table.add_row("server", f"{limit.server}, appendfsync {limit.appendfsync}")
    table.add_row(f"XADD of {limit.entry_bytes} bytes, {PIPELINE} to a pipeline", f"{limit.xadds_per_second:,.0f}/s")
    table.add_row("measured by", limit.measured_by)
    for title, share in limit.shares.items():
        table.add_row(f"events of the engine at full load, {title}", f"{share:.1%} of it")
    return table
