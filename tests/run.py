"""`make test`: the suite in groups, some of them side by side, each with servers of its own.

Most tests wait: for a lease, an outage, a process. Side by side they wait at the same time. The longest groups begin,
and short ones fill what is left, so that every processor has something to do up to the end. What a store promises is
tried on the Redis of this machine's packages as well, where there is one. What a group printed is shown when it has
ended, so that nothing is mixed; the last line counts all of them. Arguments go to every pytest.

Nothing hangs for ever: a test has its ceiling (`tests/support/ceiling.py`), and a group that hangs outside of its tests
is ended here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from tailrace.infra.embedded.choose import REDIS
from tests.support.servers import system_redis

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = Path("tests")

#: Folders and files below `tests`, group by group; those that take longest begin. A test belongs to the group that names
#: it most closely, and `.` names all of them: none can be forgotten.
GROUPS: Final = (
    (".",),
    ("integration/redis_facts",),
    ("acceptance",),
    ("integration/projections",),
    ("integration/test_builtin_agents*.py",),
    (
        "integration/projections/test_projections_co*.py",
        "integration/projections/test_projections_on_stores.py",
        "integration/projections/test_projections_re*.py",
    ),
    ("integration/test_gateway_*.py", "integration/test_tracing.py", "integration/test_watchdog.py"),
    ("integration/projections/test_projections_sharing.py", "integration/projections/test_projections_trimming.py"),
    ("integration/projections/test_projections_exactly_once.py", "integration/embedded"),
    ("acceptance/test_app.py", "acceptance/test_tour.py"),
    ("chaos", "faults"),
    ("unit", "property", "simulation", "golden", "docs", "architecture", "bench"),
    ("conformance",),
)
#: What a store promises, and what its servers do.
STORE: Final = (("integration/redis_facts",), ("conformance",))
#: How many groups run side by side.
AT_ONCE: Final = 6
#: No group takes so long on any machine.
LONGEST_SECONDS: Final = 1800.0
#: How long a group may take to say where it stands, when it is ended.
LAST_WORDS_SECONDS: Final = 10.0
NO_TESTS: Final = 5
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


class Group:
    """One pytest, and what it says."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.arguments = arguments
        # A suite starts hundreds of interpreters: without bytecode each of them compiles all that it imports.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = {**kept, **(environment or {})}
        self._output: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0

    def start(self) -> None:
        """Begin; `ended` tells when it is over."""
        self._begun = time.monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # read when the group has ended
        command = [sys.executable, "-m", "pytest", "-q", *self.arguments, *sys.argv[1:]]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=self._output, stderr=subprocess.STDOUT
        )

    def ended(self) -> bool:
        """Whether it is over. One that has run for too long is made to be: pytest writes all stacks when it is aborted."""
        assert self._process is not None
        if time.monotonic() - self._begun > LONGEST_SECONDS:
            self._process.send_signal(signal.SIGABRT)
            try:
                self._process.wait(LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is not None:
            self._process.terminate()

    @property
    def code(self) -> int:
        """How it ended."""
        assert self._process is not None
        return self._process.returncode

    def said(self) -> str:
        """All that it printed."""
        assert self._output is not None
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def main() -> int:
    """Run all groups; 0 when every one of them passed and at least one ran a test."""
    begun = time.monotonic()
    waiting = groups()
    totals: dict[str, int] = {}
    bad: list[Group] = []
    for group in _ended(waiting):
        text = group.said()
        print(f"{group.name}:\n{text}", flush=True)  # noqa: T201  # this is what it is for
        if group.code not in {0, NO_TESTS}:
            bad.append(group)
        for number, outcome in _COUNTS.findall(text.rstrip().rpartition("\n")[2]):
            totals[outcome] = totals.get(outcome, 0) + int(number)
    for group in bad:
        print(f"{group.name} ended with {group.code}")  # noqa: T201
    failed = totals.get("failed", 0) + totals.get("error", 0) + totals.get("errors", 0)
    passed, skipped = totals.get("passed", 0), totals.get("skipped", 0)
    print(f"{len(waiting)} groups in {time.monotonic() - begun:.0f} s")  # noqa: T201
    print(f"{passed} passed, {failed} failed, {skipped} skipped")  # noqa: T201
    return 1 if bad or failed or not passed else 0


def groups() -> list[Group]:
    """All groups, in the order in which they begin."""
    found = {places: [path for place in places for path in _paths(place)] for places in GROUPS}
    system = system_redis()
    made = []
    for places, mine in found.items():
        below = {path for paths in found.values() for path in paths if {*path.parents} & {*mine}}
        arguments = [*map(str, mine), *(f"--ignore={path}" for path in sorted(below))]
        made.append(Group(" ".join(places), arguments))
        if system and places in STORE:
            made.append(Group(f"{' '.join(places)} on {system}", arguments, {REDIS.setting: system}))
    return made


def _paths(place: str) -> list[Path]:
    """What a name stands for, as paths from the root."""
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / TESTS).glob(place)) if place != "." else [TESTS]
    assert paths, f"{place} names nothing below {TESTS}"
    return paths


def _ended(groups: list[Group]) -> Iterator[Group]:
    """The groups as they end; each begins when there is a place for it."""
    waiting, running = list(groups), list[Group]()
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(waiting.pop(0))
                running[-1].start()
            ended = [group for group in running if group.ended()]
            running = [group for group in running if group not in ended]
            yield from ended
            if not ended:
                time.sleep(0.1)
    finally:
        for group in running:
            group.stop()


if __name__ == "__main__":
    sys.exit(main())
