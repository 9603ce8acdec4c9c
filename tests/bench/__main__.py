"""`make bench`: speed and size of a whole deployment on this machine, as tables and as JSON.

Each part is measured on deployments of its own, with nothing else in them. Nothing here is a test, so nothing fails on a slow
machine; the aims stand beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tailrace.infra.commands.options import table_console
from tests.bench.deployment import Deployment, held, running_up
from tests.bench.figures import Figure, figure_table
from tests.bench.growth import Grown, Size, growth_tables, measure_growth, ratios, sizes
from tests.bench.latency import Latency, latency_table, measure_latency
from tests.bench.limit import Limit, limit_table, measure_limit
from tests.bench.list_pages import Listed, list_table, measure_lists
from tests.bench.load import Load
from tests.bench.noop import WORKER
from tests.bench.peers.environments import CACHE
from tests.bench.read_lag import measure_lag
from tests.bench.rebuild_rate import measure_rebuild
from tests.bench.throughput import Throughput, measure_throughput, throughput_table
from tests.bench.whole import measure_demo, measure_whole

#: Runs that are open at a time.
OPEN_RUNS: Final = 100
#: Partitions of the deployments that carry load, where it is not the number of them that is looked at.
PARTITIONS: Final = 2


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    requests: int = 300
    idle_seconds: float = 20.0
    runs: int = 2000
    single_runs: int = 200
    entries: int = 200_000
    archived_runs: int = 10_000
    lag_seconds: float = 20.0
    listed_rows: Sequence[int] = (10_000, 100_000)
    sizes: Sequence[Size]
    growth_idle_seconds: float = 5.0


#: How many rows the list is asked out of with `--full`.
FULL_ROWS: Final = (10_000, 1_000_000)
#: Enough to see that everything can be measured; its figures say little.
QUICK: Final = Amounts(
    requests=100,
    idle_seconds=2.0,
    runs=300,
    single_runs=25,
    entries=50_000,
    archived_runs=1_000,
    lag_seconds=3.0,
    listed_rows=(1_000, 10_000),
    sizes=[Size(waiting=waiting, partitions=PARTITIONS) for waiting in (100, 1_000)],
    growth_idle_seconds=1.0,
)


class Document(msgspec.Struct, kw_only=True):
    """All that was measured; what was not asked for is empty."""

    cores: int
    load_average: float
    figures: list[Figure] = []
    throughput: list[Throughput] = []
    limit: Limit | None = None
    latency: list[Latency] = []
    growth: list[Grown] = []
    lists: list[Listed] = []


#: Says what is being done now.
Say = Callable[[str], None]


def whole(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """Start, idle, memory, and the answer to a request."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        say("starts")
        for figure in measure_whole(Path(folder), requests=amounts.requests, idle_seconds=amounts.idle_seconds):
            say(figure.name)
            figures.append(figure)
    document.figures += figures
    yield figure_table(figures, "a deployment")


def demo(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """Seven real stages."""
    say("seven real stages")
    figures = list(measure_demo())
    document.figures += figures
    yield figure_table(figures, "the demo")


def throughput(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """Full load, and what it is of the server's own limit."""

    async def measure(deployment: Deployment) -> None:
        async with Load.opened(deployment.redis_url, deployment.postgres_url) as load:
            say("warming up")
            await load.drive(OPEN_RUNS, OPEN_RUNS)
            for projector in (True, False):
                say(f"{amounts.runs} runs {_beside(projector)}")
                with _projector(deployment, runs=projector):
                    found = await measure_throughput(
                        load, deployment.pids, runs=amounts.runs, open_runs=OPEN_RUNS, projector=projector
                    )
                document.throughput.append(found)
            say("what the server can do")
            document.limit = await measure_limit(load, deployment, entries=amounts.entries, full=document.throughput)
            await load.verify()

    _on_loaded(measure)
    yield throughput_table(document.throughput)
    if document.limit is not None:
        yield limit_table(document.limit)


def latency(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """One run at a time."""

    async def measure(deployment: Deployment) -> None:
        async with Load.opened(deployment.redis_url, deployment.postgres_url) as load:
            say("warming up")
            await load.drive(OPEN_RUNS, OPEN_RUNS)
            for projector in (True, False):
                say(f"{amounts.single_runs} runs, one at a time, {_beside(projector)}")
                with _projector(deployment, runs=projector):
                    document.latency += await measure_latency(load, runs=amounts.single_runs, projector=projector)

    _on_loaded(measure)
    yield latency_table(document.latency)


def growth(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """Many open runs."""
    for size in amounts.sizes:
        say_more = partial(_say_of, say, f"{size.waiting:,} runs wait, P = {size.partitions}")
        say_more("starts")
        found = measure_growth(
            size,
            runs=amounts.runs,
            open_runs=OPEN_RUNS,
            idle_seconds=amounts.growth_idle_seconds,
            say=say_more,
        )
        document.growth.append(found)
    yield from growth_tables(document.growth)
    found_ratios = ratios(document.growth)
    document.figures += found_ratios
    yield figure_table(found_ratios, "growth")


def rebuild(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """The read models, built anew from the archive."""
    figures = list(measure_rebuild(amounts.archived_runs, say))
    document.figures += figures
    yield figure_table(figures, "rebuild")


def lag(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """How old the read models are at half of full load."""
    figures: list[Figure] = []

    async def measure(deployment: Deployment) -> None:
        async with Load.opened(deployment.redis_url, deployment.postgres_url) as load:
            say("warming up")
            await load.drive(OPEN_RUNS, OPEN_RUNS)
            say(f"{amounts.runs} runs, to know what full load is")
            begun = time.monotonic()
            await load.complete(amounts.runs, OPEN_RUNS)
            full = amounts.runs / (time.monotonic() - begun)
            await load.wait_projected()
            say(f"half of {full:.0f} runs/s for {amounts.lag_seconds:.0f} s")
            figures.extend(await measure_lag(load, deployment.postgres_url, full=full, seconds=amounts.lag_seconds))

    _on_loaded(measure)
    document.figures += figures
    yield figure_table(figures, "the read models at half of full load")


def lists(amounts: Amounts, document: Document, say: Say) -> Iterator[Table]:
    """Pages of the list, with few and with many runs."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        document.lists += measure_lists(Path(folder), amounts.listed_rows, say)
    yield list_table(document.lists)


def _say_of(say: Say, what: str, doing: str) -> None:
    say(f"{what}: {doing}")


def _on_loaded(measure: Callable[[Deployment], Coroutine[None, None, None]]) -> None:
    """Measure on a deployment with the worker that does nothing."""
    settings = {"TAILRACE_PARTITIONS": str(PARTITIONS)}
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder,
        running_up(Path(folder), *WORKER, settings=settings) as deployment,
    ):
        asyncio.run(measure(deployment))


def _projector(deployment: Deployment, *, runs: bool) -> AbstractContextManager[None]:
    return nullcontext() if runs else held(deployment.pids["projector"])


def _beside(projector: bool) -> str:
    return "with a projector" if projector else "while the projector is stopped"


PARTS: Final[dict[str, Callable[[Amounts, Document, Say], Iterator[Table]]]] = {
    "whole": whole,
    "demo": demo,
    "throughput": throughput,
    "latency": latency,
    "growth": growth,
    "rebuild": rebuild,
    "lag": lag,
    "list": lists,
}


def main() -> None:
    """Measure, print the tables, and write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME[,NAME]", default="", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a small version, in less than a minute, without the demo")
    parser.add_argument(
        "--full", action="store_true", help="growth for every number of partitions, and lists of a million runs"
    )
    parser.add_argument("--json", type=Path, default=CACHE / "bench.json", help="default: %(default)s")
    options = parser.parse_args()
    parts = options.only.split(",") if options.only else [name for name in PARTS if name != "demo" or not options.quick]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    document = Document(cores=os.cpu_count() or 1, load_average=os.getloadavg()[2])
    amounts = QUICK if options.quick else Amounts(sizes=sizes(full=options.full))
    if options.full:
        amounts = msgspec.structs.replace(amounts, listed_rows=FULL_ROWS)
    console: Console = table_console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for part in parts:
            shown = progress.add_task("")
            say = partial(_show, progress, shown, part)
            for table in PARTS[part](amounts, document, say):
                console.print(table)
            progress.stop_task(shown)
            _write(options.json, document)
    cores, load = document.cores, document.load_average
    console.print(f"{cores} cores, load of the last 15 minutes {load:.1f}; all of it in {options.json}")


def _write(path: Path, document: Document) -> None:
    """After each part: whoever loses patience keeps what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document)))


def _show(progress: Progress, shown: TaskID, part: str, doing: str) -> None:
    description = f"{part}: {doing}"
    progress.update(shown, description=description)
    if not progress.console.is_terminal:
        progress.console.print(description)


if __name__ == "__main__":
    main()
