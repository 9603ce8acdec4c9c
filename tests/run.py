"""`make test`: the suite in groups, side by side, each with servers of its own.

Most tests wait: for a lease, an outage, a process. Side by side they wait at the same time. What a store promises is tried
on the Redis of this machine's packages as well, where there is one. What a group printed is shown when it has ended, so that
nothing is mixed; the last line counts all of them. Arguments go to every pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from tailrace.infra.embedded.choose import REDIS
from tests.support.servers import system_redis

ROOT: Final = Path(__file__).parents[1]

#: What a store promises, and what its servers do.
STORE: Final = ("integration/redis_facts", "conformance")
#: Names of folders or files below `tests`. What is in none of them is run by the last group, so no test can be forgotten.
GROUPS: Final = (
    ("acceptance",),
    ("chaos", "faults"),
    STORE,
    ("integration/projections", "integration/embedded"),
    ("unit", "property", "simulation", "golden", "docs", "architecture", "bench"),
)
NO_TESTS: Final = 5
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


def main() -> int:
    """Run all groups; 0 when every one of them passed and at least one ran a test."""
    begun = time.monotonic()
    named = [f"tests/{place}" for group in GROUPS for place in group]
    running = [_start([f"tests/{place}" for place in group]) for group in GROUPS]
    running.append(_start(["tests", *(f"--ignore={place}" for place in named)]))
    if system := system_redis():
        running.append(_start([f"tests/{place}" for place in STORE], {REDIS.setting: system}))
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
    print(f"{len(running)} groups in {time.monotonic() - begun:.0f} s")  # noqa: T201
    print(f"{passed} passed, {failed} failed, {skipped} skipped")  # noqa: T201
    return 1 if bad or failed or not passed else 0


def _start(
    arguments: list[str], environment: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = tempfile.TemporaryFile()  # noqa: SIM115  # read when the group has ended
    command = [sys.executable, "-m", "pytest", "-q", *arguments, *sys.argv[1:]]
    environ = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT), output


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
