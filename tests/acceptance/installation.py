"""An installation under test: `tailrace up` in a process of its own, and everything a user does with it from outside.

Commands are run as programs; the API is used over HTTP; rows are read over SQL. Nothing of the system is imported but the
client that its own commands use.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg

from tailrace.infra.client import Gateway, GatewayError
from tailrace.infra.config import UP_FILE
from tailrace.infra.parent import PARENT_VARIABLE
from tests.acceptance.proc import ours_in, signal_all
from tests.acceptance.waiting import PATIENCE_SECONDS, until

TERMINAL = frozenset({"completed", "failed", "cancelled"})


def tailrace_program() -> list[str]:
    """How a user starts `tailrace`: the program that the installation put beside the interpreter."""
    program = Path(sys.executable).with_name("tailrace")
    assert program.exists(), f"{program} is missing: install the project first (`make env`)"
    return [str(program)]


class Finished:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Installation:
    """One `tailrace up` on a data directory, from start to end; leaving it leaves nothing behind."""

    def __init__(
        self,
        folder: Path,
        *,
        agents: str | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        self.folder = folder
        self.data = folder / "d"
        self.ready_file = folder / "ready.json"
        self.program = list(program or tailrace_program())
        self._arguments = [*(("--agents", agents) if agents is not None else ()), *arguments]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        self.environment = {**kept, **(environment or {}), "TAILRACE_DATA_DIR": str(self.data)}
        self._as: dict[str, Any] = {"env": self.environment, "cwd": folder}
        if user is not None:
            self._as |= {"user": user, "group": group, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self.started_seconds = 0.0

    def __enter__(self) -> Installation:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    # --- Life

    def start(self) -> None:
        """Start it and wait until it says that all is ready."""
        began = time.monotonic()
        self.ready_file.unlink(missing_ok=True)
        with (self.folder / "up.log").open("ab") as log:
            # It dies with the test run, also when that is killed.
            how = {**self._as, "env": {**self._as["env"], PARENT_VARIABLE: str(os.getpid())}}
            self._process = subprocess.Popen(self._up(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **how)
        try:
            until(lambda: self.ready_file.exists() or self._process_ended(), "the installation is ready")
            assert not self._process_ended(), f"`tailrace up` ended while it started:\n{self.log_tail()}"
        except BaseException:
            self.destroy()
            raise
        self.started_seconds = time.monotonic() - began

    def _up(self) -> list[str]:
        return [*self.program, "up", "--port", "0", "--ready-file", str(self.ready_file), *self._arguments]

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Signal `up`; gives its exit code and the seconds until it had ended."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(number)
        return self._process.wait(timeout=PATIENCE_SECONDS), time.monotonic() - began

    def kill(self) -> None:
        """Take away the supervisor without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=PATIENCE_SECONDS)

    def destroy(self) -> None:
        """End it in order, so that it takes its sockets along, and whatever is left then by force."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=PATIENCE_SECONDS)
            self._process.kill()
            self._process.wait(timeout=PATIENCE_SECONDS)
        until(self._killed, "nothing is left")

    def _killed(self) -> bool:
        left = ours_in(self.folder)
        signal_all(left, signal.SIGKILL)
        return not left

    def log_tail(self) -> str:
        """What `up` said last."""
        return "\n".join((self.folder / "up.log").read_text(errors="replace").splitlines()[-40:])

    # --- What it says of itself

    def ready(self) -> dict[str, Any]:
        """The ready file as it is now."""
        found: dict[str, Any] = json.loads(self.ready_file.read_text())
        return found

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        pids: dict[str, int] = self.ready()["pids"]
        return pids

    def states(self) -> dict[str, Any]:
        """What the supervisor says of its processes."""
        found: dict[str, Any] = json.loads((self.data / UP_FILE).read_text())["processes"]
        return found

    def wait_replaced(self, name: str, pid: int) -> dict[str, int]:
        """Wait until the ready file names another process for `name` than `pid`; gives all pids."""
        return until(lambda: (now := self.pids()).get(name, pid) != pid and now, f"another {name}")

    @property
    def gateway(self) -> Gateway:
        """A client of its API."""
        return Gateway(self.ready()["url"])

    # --- Commands

    def cli(self, *arguments: str, seconds: float = PATIENCE_SECONDS) -> Finished:
        """Run one command to its end."""
        done = subprocess.run(
            [*self.program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            **self._as,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str) -> Finished:
        """Run one command that has to succeed."""
        done = self.cli(*arguments)
        assert done.code == 0, f"tailrace {' '.join(arguments)}: {done!r}"
        return done

    # --- Runs

    def apply(self, toml: str) -> None:
        """Make a definition known, out of a file."""
        file = self.folder / "definition.toml"
        file.write_text(toml)
        self.ok("definitions", "apply", str(file))

    def submit(self, type: str, **fields: Any) -> str:
        """Start a run; gives its id."""
        workflow_id: str = self.gateway.post("/workflows", {"type": type, "name": "trial", **fields})["workflow_id"]
        return workflow_id

    def run(self, workflow_id: str) -> dict[str, Any]:
        """The run as the API shows it."""
        found: dict[str, Any] = self.gateway.get(f"/workflows/{workflow_id}")
        return found

    def wait(self, workflow_id: str, *statuses: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait until the run has one of the statuses (or has ended, when none is named); gives the run."""
        wanted = frozenset(statuses) or TERMINAL
        last: dict[str, Any] = {}

        def reached() -> bool:
            try:
                last.update(self.run(workflow_id))
            except (GatewayError, OSError):
                return False  # the gateway, or what it needs, is down for the moment
            return last["status"] in wanted

        try:
            until(reached, f"run {workflow_id} is {' or '.join(sorted(wanted))}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {json.dumps(last, indent=1)}") from error
        return last

    def events(self, workflow_id: str, type: str | None = None) -> list[dict[str, Any]]:
        """The run's history as the API gives it, or the events of one type; without the CloudEvents envelope."""
        items: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            page = self.gateway.get(f"/workflows/{workflow_id}/events", after=after, limit=1000)
            items += [
                {"type": item["type"].rpartition(".")[2], "time": item["time"], **item["data"]}
                for item in page["items"]
            ]
            after = page["next_cursor"]
            if after is None:
                return [item for item in items if type is None or item["type"] == type]

    def started(self, workflow_id: str, stage: str) -> dict[str, Any] | None:
        """The last start of a stage's task, once there is one."""
        found = [event for event in self.events(workflow_id, "TaskStarted") if event["stage"] == stage]
        return found[-1] if found else None

    def wait_started(self, workflow_id: str, stage: str) -> dict[str, Any]:
        """Wait until a worker has begun with a stage; gives that event."""
        return until(lambda: self.started(workflow_id, stage), f"the start of {stage}")

    # --- Rows

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """What a query finds in the read model."""
        return asyncio.run(self._rows(sql, values))

    async def _rows(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.ready()["postgres_url"], timeout=10)
        try:
            await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
            return [dict(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()
