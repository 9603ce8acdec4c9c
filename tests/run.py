"""`make test`: the suite in groups, side by side, each with servers of its own.

Most tests wait: for a lease, an outage, a process. Side by side they wait at the same time. What a group printed is shown when it
has ended, so that nothing is mixed; the last line counts all of them. Arguments go to every pytest.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).parents[1]

#: Names of folders or files below `tests`. What is in none of them is run by the last group, so no test can be forgotten.
GROUPS: Final = (
    ("acceptance",),
    ("integration/redis_facts", "conformance"),
    ("integration/projections", "integration/test_embedded.py"),
)
NO_TESTS: Final = 5
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


def main() -> int:
    """Run all groups; 0 when every one of them passed and at least one ran a test."""
    begun = time.monotonic()
    named = [f"tests/{place}" for group in GROUPS for place in group]
    commands = [[f"tests/{place}" for place in group] for group in GROUPS]
    commands.append(["tests", *(f"--ignore={place}" for place in named)])
    running = [_start(command) for command in commands]
    totals: dict[str, int] = {}
    bad = False
    for process, output in _ended(running):
        output.seek(0)
        text = output.read().decode(errors="replace")
        print(text, flush=True)  # noqa: T201  # this is what it is for
        bad = bad or process.returncode not in {0, NO_TESTS}
        for number, outcome in _COUNTS.findall(text.rstrip().rpartition("\n")[2]):
            totals[outcome] = totals.get(outcome, 0) + int(number)
    failed = totals.get("failed", 0) + totals.get("error", 0) + totals.get("errors", 0)
    passed, skipped = totals.get("passed", 0), totals.get("skipped", 0)
    print(f"{len(commands)} groups in {time.monotonic() - begun:.0f} s")  # noqa: T201
    print(f"{passed} passed, {failed} failed, {skipped} skipped")  # noqa: T201
    return 1 if bad or failed or not passed else 0


def _start(arguments: list[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = tempfile.TemporaryFile()  # noqa: SIM115  # read when the group has ended
    command = [sys.executable, "-m", "pytest", "-q", *arguments, *sys.argv[1:]]
    return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT), output


def _ended(
    running: list[tuple[subprocess.Popen[bytes], IO[bytes]]],
) -> list[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    try:
        for process, _ in running:
            process.wait()
    finally:
        for process, _ in running:
            process.terminate()
    return running


if __name__ == "__main__":
    sys.exit(main())
