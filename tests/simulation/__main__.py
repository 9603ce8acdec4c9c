"""`make simulate SEEDS=n`: many histories, each from one seed. Prints what was injected, and how to replay what failed.

`--seed S` replays one history and prints its trace; `--first K` begins with another seed than 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.simulation.world import Outcome, simulate

#: How many lines of a failed history are shown, and of how many histories.
LAST_LINES = 25
SHOWN = 3


def main() -> int:
    """Simulate; 1 when any history is not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many histories")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, default=None, help="only this one, with its whole trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed)
    return _many(range(options.first, options.first + options.seeds), options.jobs)


def _replay(seed: int) -> int:
    outcome = simulate(seed, traced=True)
    print("\n".join(outcome.lines))
    for violation in outcome.violations:
        print(f"VIOLATION {violation}")
    print(f"{outcome.runs} runs, {outcome.events} events, {outcome.seconds:.1f} s of its own time: {outcome.statuses}")
    return 1 if outcome.violations else 0


def _many(seeds: range, jobs: int) -> int:
    console = Console()
    begun = time.monotonic()
    injected: Counter[str] = Counter()
    crashed: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    failed: list[Outcome] = []
    events = seconds = 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with multiprocessing.get_context("spawn").Pool(jobs) as pool, Progress(*columns, console=console) as progress:
        bar = progress.add_task("histories", total=len(seeds))
        outcomes: Iterable[Outcome] = pool.imap_unordered(simulate, seeds, chunksize=8)
        for done, outcome in enumerate(outcomes, start=1):
            injected.update(outcome.injected)
            crashed.update(outcome.crashed)
            happened.update(outcome.happened)
            statuses.update(outcome.statuses)
            events += outcome.events
            seconds += outcome.seconds
            if outcome.violations:
                failed.append(outcome)
            rate = 60 * done / (time.monotonic() - begun)
            progress.update(bar, advance=1, description=f"histories ({rate:,.0f}/min, {len(failed)} failed)")
    took = time.monotonic() - begun
    console.print(_counts("faults", injected))
    console.print(_counts("crash points", crashed))
    console.print(_counts("what happened", happened))
    ended = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    console.print(
        f"{len(seeds)} histories from seed {seeds[0]} in {took:.1f} s: {60 * len(seeds) / took:,.0f} a minute, "
        f"{events:,.0f} events, {seconds / 3600:,.1f} hours of their own time"
    )
    console.print(f"runs: {ended}; {sum(injected.values())} faults, {sum(crashed.values())} crashes at crash points")
    for outcome in sorted(failed, key=lambda outcome: outcome.seed)[:SHOWN]:
        _show(outcome)
    first = min((outcome.seed for outcome in failed), default=None)
    print(f"{len(failed)} of {len(seeds)} failed" + (f", first with seed {first}" if first is not None else ""))
    return 1 if failed else 0


def _counts(title: str, counts: Counter[str]) -> Table:
    table = Table(title, "times", box=None)
    for name, count in sorted(counts.items()):
        table.add_row(name, str(count))
    return table


def _show(outcome: Outcome) -> None:
    print(f"\nseed {outcome.seed}:")
    for violation in outcome.violations[:10]:
        print(f"  {violation}")
    print(f"  the last of {len(outcome.lines)} lines:")
    for line in outcome.lines[-LAST_LINES:]:
        print(f"    {line}")
    print(f"  replay: {sys.executable} -m tests.simulation --seed {outcome.seed}")


if __name__ == "__main__":
    sys.exit(main())
