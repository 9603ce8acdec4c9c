"""`make faults`: how often the watchdog names the right cause, and how soon, over a corpus of faults that are known.

    python -m tests.faults --only no-worker,worker-stopped --json result.json

Each case is a real fault on real servers and processes; those beside them are healthy and must not be flagged. Exit code 1
when one is wrong. What the processes said is kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from tailrace.infra.parent import die_with_parent
from tests.faults.corpus import CASES
from tests.faults.result import Outcome
from tests.faults.trial import AT_ONCE, trial

#: How wide the table is where nobody says: its suggestions are commands, better read in one line.
WIDTH = 180


def main() -> int:
    """Play the cases, print the table, write the JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of cases, with commas between them")
    parser.add_argument("--fast", action="store_true", help="what `make test` plays")
    parser.add_argument("--list", action="store_true", help="show the cases, play none")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help=f"how many are played at a time ({AT_ONCE})")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    die_with_parent()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    chosen = [case for case in CASES.values() if case.fast or not arguments.fast]
    if arguments.only:
        names = arguments.only.split(",")
        if unknown := set(names) - CASES.keys():
            parser.error(f"there is no case {', '.join(sorted(unknown))}")
        chosen = [CASES[name] for name in names]
    if arguments.list:
        for case in chosen:
            console.print(f"{case.name}: {case.cause or 'healthy'}, by {case.way}: {case.what}", soft_wrap=True)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="tr-faults-"))

    def show(outcome: Outcome, done: int, all_of_them: int) -> None:
        mark = "[green]ok[/green]" if outcome.ok else "[red]wrong[/red]"
        console.print(f"{done}/{all_of_them} {outcome.name} {mark} ({outcome.took_seconds:.0f} s)")

    result = asyncio.run(trial(chosen, folder, show, at_once=arguments.at_once))
    console.print(result.table())
    if arguments.json:
        document = {"summary": result.summary(), "cases": result.outcomes}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    if result.wrong:
        console.print(f"kept: {folder}", markup=False, soft_wrap=True)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
