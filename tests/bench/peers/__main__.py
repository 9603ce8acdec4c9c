"""`make bench-peers`: Tailrace beside Celery, DBOS and LangGraph, on this machine, with the same durability.

A workflow of seven steps that do nothing, 100 open at a time, and then one at a time; so many of them that the beginning and
the end, when fewer are open, hardly count. The sides take turns within each round, because a machine is not equally fast
all day; each starts with empty servers, set up as `tailrace up` does. A side
that can't be installed or does not complete its runs is an error (exit code 1), and the others are measured all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tailrace.infra.commands.options import table_console
from tailrace.infra.embedded import embedded_servers
from tailrace.infra.embedded.choose import POSTGRES, REDIS, wheel_program
from tests.bench.deployment import running_up
from tests.bench.noop import WORKER
from tests.bench.peers.contract import Answer
from tests.bench.peers.environments import ROOT, NotInstalled, python_of

OURS: Final = "tailrace"
PEERS: Final = ("celery", "dbos", "langgraph")
SIDE_SECONDS: Final = 600


class Failed(Exception):
    """A side was not measured; the message says why."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One side over all rounds: medians. `ratio` is Tailrace's rate over this one's, round by round."""

    peer: str
    version: str
    rounds: int
    runs_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float
    ratio: float | None
    error: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    runs: int
    open_runs: int
    cores: int
    load_average: float
    sides: list[Summary]
    rounds: list[dict[str, Answer]]


def main() -> int:
    """Measure, print the table, and write the JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3000, help="workflows of each side in each round")
    parser.add_argument("--open", dest="open_runs", type=int, default=100, help="how many of them are open at a time")
    parser.add_argument("--idle-runs", type=int, default=100, help="runs whose latency is measured, one at a time")
    parser.add_argument("--only", action="append", choices=(OURS, *PEERS), help="for a trial; may be repeated")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    arguments = [
        f"--{name}={value}"
        for name, value in (("runs", options.runs), ("open", options.open_runs), ("idle-runs", options.idle_runs))
    ]
    sides = [side for side in (OURS, *PEERS) if options.only is None or side in options.only]
    console: Console = table_console()
    rounds, errors = _measure_all(console, sides, arguments, options.rounds)
    summaries = [_summary(side, rounds, errors.get(side, "")) for side in sides]
    console.print(_table(summaries))
    load = os.getloadavg()[2]
    console.print(f"{os.cpu_count()} cores, load of the last 15 minutes {load:.1f} (the bench itself included)")
    for side, error in errors.items():
        console.print(f"[red]{side}: {escape(error)}[/red]")
    if options.json:
        document = Document(
            runs=options.runs,
            open_runs=options.open_runs,
            cores=os.cpu_count() or 1,
            load_average=load,
            sides=summaries,
            rounds=rounds,
        )
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    return 1 if errors else 0


def _measure_all(
    console: Console, sides: Sequence[str], arguments: Sequence[str], rounds: int
) -> tuple[list[dict[str, Answer]], dict[str, str]]:
    """The answers of each round by side, and why sides have none; one that failed is not asked again."""
    answers: list[dict[str, Answer]] = []
    errors: dict[str, str] = {}
    with Progress(console=console) as progress:
        shown = progress.add_task("environments", total=rounds * len(sides))
        pythons: dict[str, Path] = {}
        for side in sides:
            progress.update(shown, description=f"environment of {side}")
            try:
                pythons[side] = Path(sys.executable) if side == OURS else python_of(side)
            except NotInstalled as error:
                errors[side] = f"can't be installed: {error}"
        for number in range(1, rounds + 1):
            answers.append({})
            for side in sides:
                progress.update(shown, description=f"round {number} of {rounds}: {side}")
                if side not in errors:
                    try:
                        answers[-1][side] = answer = _measure(side, pythons[side], arguments)
                    except Failed as error:
                        errors[side] = str(error)
                    else:
                        progress.console.print(_line(number, answer, answers[-1].get(OURS)))
                progress.advance(shown)
    return answers, errors


def _measure(side: str, python: Path, arguments: Sequence[str]) -> Answer:
    """One side in one round, on servers that are empty."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        folder = Path(name)
        if side != OURS:
            return asyncio.run(_beside_servers(folder, python, side, arguments))
        with running_up(folder, *WORKER, settings=_wheels()) as deployment:
            command = [str(python), "-m", "tests.bench.load", *arguments]
            return asyncio.run(_ask(command, deployment.redis_url, deployment.postgres_url))


def _wheels() -> dict[str, str]:
    """The servers of the wheels, whatever else this machine has: the same versions wherever it is measured."""
    programs = {server: wheel_program(server) for server in (REDIS, POSTGRES)}
    missing = [server.wheel for server, program in programs.items() if program is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; see `make env`")
    return {server.setting: str(program) for server, program in programs.items()}


async def _beside_servers(folder: Path, python: Path, peer: str, arguments: Sequence[str]) -> Answer:
    wheels = _wheels()
    async with embedded_servers(
        folder, redis_server=wheels[REDIS.setting], postgres_bin=wheels[POSTGRES.setting]
    ) as servers:
        command = [str(python), "-m", f"tests.bench.peers.{peer}.run", *arguments]
        return await _ask(command, servers.redis.url, servers.postgres.url)


async def _ask(command: Sequence[str], redis_url: str, postgres_url: str) -> Answer:
    """Run a side's program in a session of its own, which ends with it; raises `Failed` with what it said last."""
    with tempfile.TemporaryFile("w+") as said:
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--redis-url", redis_url, "--postgres-url", postgres_url),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(SIDE_SECONDS):
                out, _ = await process.communicate()
        except TimeoutError as error:
            raise Failed(f"not complete within {SIDE_SECONDS} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what it started and did not end
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.returncode != 0:
            said.seek(0)
            raise Failed(f"ended with {process.returncode}:\n" + "\n".join(said.read().splitlines()[-8:]))
    try:
        return msgspec.json.decode(out, type=Answer)
    except msgspec.MsgspecError as error:
        raise Failed(f"gave no answer ({error}): {out[-300:]!r}") from error


def _summary(side: str, rounds: Sequence[dict[str, Answer]], error: str) -> Summary:
    answers = [answers[side] for answers in rounds if side in answers]

    def median(values: Sequence[float]) -> float:
        return statistics.median(values) if values else float("nan")

    ratios = [
        answers[OURS].runs_per_second / answers[side].runs_per_second
        for answers in rounds
        if side in answers and OURS in answers
    ]
    return Summary(
        peer=side,
        version=answers[0].version if answers else "",
        rounds=len(answers),
        runs_per_second=median([answer.runs_per_second for answer in answers]),
        latency_p50_ms=median([answer.latency_p50_ms for answer in answers]),
        latency_p99_ms=median([answer.latency_p99_ms for answer in answers]),
        ratio=median(ratios) if ratios and side != OURS else None,
        error=error,
    )


def _line(number: int, answer: Answer, ours: Answer | None) -> str:
    line = (
        f"  {number}  {answer.peer:<10} {answer.runs_per_second:7.1f} runs/s"
        f"   one at a time {answer.latency_p50_ms:6.1f} ms, p99 {answer.latency_p99_ms:6.1f} ms"
    )
    if ours is None or ours is answer:
        return line
    return f"{line}   Tailrace/{answer.peer} {ours.runs_per_second / answer.runs_per_second:.2f}"


def _table(summaries: Sequence[Summary]) -> Table:
    table = Table("", "version", "rounds", title="medians of the rounds; idle: one run at a time")
    for name in ("runs/s", "Tailrace/peer", "idle p50", "idle p99"):
        table.add_column(name, justify="right")
    for side in summaries:
        if not side.rounds:
            table.add_row(side.peer, "[red]not measured[/red]")
            continue
        table.add_row(
            side.peer,
            side.version,
            str(side.rounds),
            f"{side.runs_per_second:.1f}",
            "" if side.ratio is None else f"{side.ratio:.2f}",
            f"{side.latency_p50_ms:.1f} ms",
            f"{side.latency_p99_ms:.1f} ms",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
