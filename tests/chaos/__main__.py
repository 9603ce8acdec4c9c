"""`make chaos`: hundreds of runs through a real installation whose every part is killed, stopped and cut off at random.

    python -m tests.chaos --seconds 120 --runs 300 --seed 7

The same seed means the same runs and the same faults at the same times. Exit code 1, with the reasons, when anything that was
acknowledged is lost, done twice or left over. What the processes said is kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tailrace.infra.parent import die_with_parent
from tests.chaos.trial import Options, trial

TELL_SECONDS = 10.0

#: A trial that fits into the test suite.
SLICE = Options(seed=0, seconds=8.0, runs=35, postgres_away_seconds=4.0, workers=2, kills=1)


def main() -> int:
    """Run one trial, print the table, write the JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="how long faults are injected (120)")
    parser.add_argument("--runs", type=int, help="how many runs are started meanwhile (300)")
    parser.add_argument("--seed", type=int, help="a random one by default")
    parser.add_argument("--kills", type=int, help="how many workers die before, for the time of recovery (24)")
    parser.add_argument("--slice", action="store_true", help="what `make test` runs: some twenty seconds of it")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    die_with_parent()
    chosen = SLICE if arguments.slice else Options(seed=0)
    given = {name: getattr(arguments, name) for name in ("seconds", "runs", "kills")}
    seed = SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    options = msgspec.structs.replace(
        chosen, seed=seed, **{name: value for name, value in given.items() if value is not None}
    )
    console = Console()
    console.print(f"seed {seed}: {options.runs} runs in {options.seconds:g} s")
    folder = Path(tempfile.mkdtemp(prefix="tr-chaos-"))
    with Telling(console) as show:
        result = asyncio.run(trial(options, folder, show))
    console.print(result.table())
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    if result.failures:
        again = " ".join([*sys.argv[1:], *(() if arguments.seed is not None else ("--seed", str(seed)))])
        console.print(f"kept: {folder}\nonce more: python -m tests.chaos {again}", markup=False, soft_wrap=True)
        return 1
    shutil.rmtree(folder)
    return 0


class Telling:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=1)
        self._told = 0.0

    def __enter__(self) -> Telling:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what the trial is at."""
        self._progress.update(self._task, description=what, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._console.print(f"{what} ({done}/{total})")


if __name__ == "__main__":
    sys.exit(main())
