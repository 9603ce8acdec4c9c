"""The supervisor behind `tailrace up`: embedded servers and one process of each kind, kept running.

A process that dies is started again with backoff, and said so; one that keeps dying is left down, shown by `doctor`. Every
process dies with the supervisor. What runs is written to two files: the ready file for programs that started us, and
`up.json` in the data directory for commands on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.core.errors import ConfigurationError, ReadModelUnavailable, StoreUnavailable
from tailrace.infra.config import UP_FILE, Settings
from tailrace.infra.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis, EmbeddedServer
from tailrace.infra.parent import PARENT_VARIABLE, READY_VARIABLE
from tailrace.infra.urls import POSTGRES_SETTING, REDIS_SETTING, address

log = logging.getLogger("tailrace.up")

START_SECONDS: Final = 30.0
#: How often a server that somebody else starts is asked again.
_ASK_SECONDS: Final = 0.5
#: How long tasks may go on after Ctrl-C; what is left is handed back, and taken up by the next `up`.
DRAIN_SECONDS: Final = 5.0
#: What a worker needs to drain, to cancel and hand back, and to end what its agent keeps running, on a busy machine.
STOP_SECONDS: Final = DRAIN_SECONDS + 15.0
#: A process that dies so often within the time (seconds) is left down.
DEATHS: Final = 6
DEATHS_SECONDS: Final = 60.0
_BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

BUILTIN_AGENTS: Final = ("scaffold", "validation", "e2e", "integration", "deployment")


class Deaths:
    """How often something ended of late: how long to wait before the next start, and when to give up."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def add(self, *, ran: bool) -> None:
        """One more, now. Starts that fail in a row (not `ran`) all count, however long each of them took."""
        now = time.monotonic()
        self._at = [*(death for death in self._at if not ran or now - death < DEATHS_SECONDS), now]

    @property
    def too_many(self) -> bool:
        """Whether it is to be left down."""
        return len(self._at) >= DEATHS

    @property
    def wait_seconds(self) -> float:
        """Backoff."""
        return _BACKOFF[min(len(self._at), len(_BACKOFF)) - 1]

    def told(self, code: int | str) -> str:
        """Why it is left down."""
        seconds = max(DEATHS_SECONDS, self._at[-1] - self._at[0])
        return f"ended {len(self._at)} times within {seconds:.0f} s, last with {code}"


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One process to be kept running: its name in the ready file, and the arguments of `tailrace`."""

    name: str
    arguments: tuple[str, ...]


class Supervised:
    """One process, started again whenever it dies."""

    def __init__(self, plan: ProcessPlan, environment: dict[str, str], log_path: Path) -> None:
        self.plan = plan
        self.state = "starting"
        self.detail = ""
        self._environment = environment
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._deaths = Deaths()
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> str:
        """Start it and wait until it says that it does its work; gives what it said.

        Raises `ConfigurationError` with the last lines of its log when it ends before, or does not say so in time.
        """
        self._ready = False
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as output:
            reading, writing = os.pipe()
            environment = {**self._environment, READY_VARIABLE: str(writing), PARENT_VARIABLE: str(os.getpid())}
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tailrace.infra.cli",
                    *self.plan.arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            except BaseException:
                os.close(reading)
                raise
            finally:
                os.close(writing)
        message = await self._said_ready(reading)
        self._ready = True
        self.state = "running"
        return message

    async def _said_ready(self, reading: int) -> str:
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb")
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await stream.readline()
        except TimeoutError:
            line = b""
        finally:
            transport.close()
        if line.endswith(b"\n"):
            return line.decode().strip()
        code = await self._end(0.5)
        reason = f"ended with {code}" if code is not None else f"was not ready within {START_SECONDS:.0f} s"
        self.state = "down"
        self.detail = f"{self.plan.name} {reason}"
        raise ConfigurationError(f"{self.detail}; the end of {self._log_path}:\n{self.log_tail()}")

    async def keep(self, changed: Callable[[str], None]) -> None:
        """Start it again whenever it ends; returns when it is left down."""
        while True:
            assert self._process is not None
            code: int | str = await self._process.wait()
            ran = True
            while True:
                self._deaths.add(ran=ran)
                if self._deaths.too_many:
                    self.state = "down"
                    self.detail = self._deaths.told(code)
                    log.error("%s keeps dying (%s) and is left down; see %s", self.plan.name, code, self._log_path)
                    changed(self.plan.name)
                    return
                wait = self._deaths.wait_seconds
                self.state = "restarting"
                log.warning("%s ended with %s; starting it again in %.1f s", self.plan.name, code, wait)
                await asyncio.sleep(wait)
                try:
                    message = await self.start()
                except Exception as error:  # noqa: BLE001  # no room for a fork, say: the next try may have it
                    ran, code = False, _first_line(error)
                    self.signal(signal.SIGKILL)  # it may run, and have said nothing
                    await self._end(5.0)
                    continue
                log.info("%s runs again%s", self.plan.name, f": {message}" if message else "")
                changed(self.plan.name)
                break

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to end, and end it when it does not; one that never said it was ready holds nothing, and is killed at once."""
        self.signal(signal.SIGTERM if self._ready else signal.SIGKILL)
        if await self._end(STOP_SECONDS) is None:
            log.warning("%s does not stop; it is killed", self.plan.name)
            self.signal(signal.SIGKILL)
            await self._end(5.0)
        self.state = "stopped"

    async def _end(self, seconds: float) -> int | None:
        if self._process is None:
            return 0
        try:
            async with asyncio.timeout(seconds):
                return await self._process.wait()
        except TimeoutError:
            return None

    def log_tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `tailrace up` starts: a worker for each of `agents`, and one for all agents of `app`. `concurrency` is per agent.

    `start_seconds`: how long a server that somebody else runs may stay away.
    """

    port: int = 8080
    host: str = "127.0.0.1"
    agents: tuple[str, ...] = BUILTIN_AGENTS
    concurrency: int = 4
    ready_file: Path | None = None
    app: str | None = None
    start_seconds: float = START_SECONDS


class Up:
    """Everything on this machine. `async with Up(...) as up` has it ready; leaving stops it."""

    def __init__(self, settings: Settings, options: UpOptions) -> None:
        self.settings = settings
        self.options = options
        self.url = ""
        self.redis_url = settings.redis_url or ""
        self.postgres_url = settings.postgres_url or ""
        self.processes: list[Supervised] = []
        self._servers: dict[str, EmbeddedServer] = {}
        self._server_states: dict[str, dict[str, str]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._announced = False

    async def __aenter__(self) -> Up:
        self.settings.require_token(self.options.host)
        check_port(self.options.host, self.options.port)
        try:
            await self._start_servers()
            await self._wait_servers()
            await self._start_processes()
        except BaseException:
            await self._stop()
            raise
        self._write_files()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def pids(self) -> dict[str, int]:
        """Every process that runs now, by name."""
        running: dict[str, int | None] = {
            name: server.pid if server.running else None for name, server in self._servers.items()
        }
        running |= {process.plan.name: process.pid for process in self.processes}
        return {"up": os.getpid(), **{name: pid for name, pid in running.items() if pid is not None}}

    async def _start_servers(self) -> None:
        folder = self.settings.data_dir
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.settings.redis_url:
            self._servers["redis"] = EmbeddedRedis(folder / "redis", server=self.settings.redis_server)
        if not self.settings.postgres_url:
            self._servers["postgres"] = EmbeddedPostgres(folder / "postgres", bin_dir=self.settings.postgres_bin)
        # One after the other in the code, at once in time: the group waits for both, also when one of them fails.
        try:
            async with asyncio.TaskGroup() as group:
                for server in self._servers.values():
                    group.create_task(server.start())
        except ExceptionGroup as failed:
            problems, others = failed.split(EmbeddedError)
            if problems is None or others is not None:
                raise
            raise ConfigurationError("\n".join(str(problem) for problem in problems.exceptions)) from failed
        if "redis" in self._servers:
            self.redis_url = self._servers["redis"].url
        if "postgres" in self._servers:
            self.postgres_url = self._servers["postgres"].url
        for name, server in self._servers.items():
            self._server_states[name] = {"state": "running", "detail": ""}
            self._keepers.append(asyncio.create_task(self._keep_server(name, server)))

    async def _wait_servers(self) -> None:
        """Those that somebody else runs; raises `ConfigurationError` naming the setting of one that stays away."""
        if self.settings.redis_url:
            from tailrace.core.redis_backend.connection import ask as ask_redis  # noqa: PLC0415  # brings redis

            await self._wait_server("Redis", REDIS_SETTING, self.settings.redis_url, ask_redis)
        if self.settings.postgres_url:
            from tailrace.projections.session import ask as ask_postgres  # noqa: PLC0415  # brings asyncpg

            await self._wait_server("Postgres", POSTGRES_SETTING, self.settings.postgres_url, ask_postgres)

    async def _wait_server(self, name: str, setting: str, url: str, ask: Callable[[str], Awaitable[None]]) -> None:
        end = time.monotonic() + self.options.start_seconds
        said = False
        while True:
            try:
                return await ask(url)
            except (StoreUnavailable, ReadModelUnavailable) as error:
                if time.monotonic() > end:
                    raise ConfigurationError(
                        f"{name} at {address(url)} did not answer within {self.options.start_seconds:g} s; start it, or "
                        f"correct {setting}: {error}"
                    ) from error
                if not said:
                    log.warning("waiting for %s at %s (%s): %s", name, address(url), setting, error)
                    said = True
            except ConfigurationError as error:
                raise ConfigurationError(f"{setting}: {error}") from error
            await asyncio.sleep(_ASK_SECONDS)

    async def _keep_server(self, name: str, server: EmbeddedServer) -> None:
        """A server that dies is started again on the same data and address; one that keeps dying is left down."""
        deaths = Deaths()
        failed: str | None = None
        while True:
            code: int | str = await server.wait() if failed is None else failed
            if self._stopping:
                return
            deaths.add(ran=failed is None)
            if deaths.too_many:
                log.error("%s keeps dying (%s) and is left down; see %s", name, code, server.log_path)
                self._say_server(name, "down", f"{deaths.told(code)}; see {server.log_path}")
                return
            wait = deaths.wait_seconds
            log.warning("%s ended with %s; starting it again in %.1f s", name, code, wait)
            self._say_server(name, "restarting", f"ended with {code}")
            await asyncio.sleep(wait)
            try:
                await server.start()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next try may do
                failed = _first_line(error)
                log.error("%s can't be started: %s", name, error)  # noqa: TRY400  # the cause is in the message
                continue
            failed = None
            log.info("%s runs again", name)
            self._say_server(name, "running", "")

    def _say_server(self, name: str, state: str, detail: str) -> None:
        self._server_states[name] = {"state": state, "detail": detail}
        if self._announced:
            self._write_again()

    def _write_again(self) -> None:
        """For keepers, which go on also while the disk is full."""
        try:
            self._write_files()
        except OSError as error:
            log.error("can't write %s: %s", UP_FILE, error)  # noqa: TRY400  # the cause is in the message

    async def _start_processes(self) -> None:
        """The gateway first, because it applies the definitions; then all others at once."""
        environment = {
            **os.environ,
            "TAILRACE_REDIS_URL": self.redis_url,
            "TAILRACE_POSTGRES_URL": self.postgres_url,
            "TAILRACE_NAMESPACE": self.settings.namespace,
            "TAILRACE_DATA_DIR": str(self.settings.data_dir),
            "TAILRACE_LOG_LEVEL": self.settings.log_level,
        }
        if self.settings.partitions or "redis" in self._servers:
            environment["TAILRACE_PARTITIONS"] = str(self.settings.partitions or 2)
        logs = self.settings.data_dir / "logs"
        self.processes = [Supervised(plan, environment, logs / f"{plan.name}.log") for plan in self._plans()]
        starting = [asyncio.create_task(process.start()) for process in self.processes]
        try:
            messages = await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise
        self.url = messages[0]
        # Started again, it is to be found where it was.
        port = self.url.rpartition(":")[2]
        gateway = self.processes[0]
        gateway.plan = msgspec.structs.replace(
            gateway.plan, arguments=("gateway", "--host", self.options.host, "--port", port)
        )
        for process in self.processes:
            self._keepers.append(asyncio.create_task(process.keep(lambda _: self._write_again())))

    def _plans(self) -> Sequence[ProcessPlan]:
        options = self.options
        gateway = ("gateway", "--host", options.host, "--port", str(options.port))
        worker = ("--concurrency", str(options.concurrency), "--drain-seconds", str(DRAIN_SECONDS))
        plans = [
            ProcessPlan(name="gateway", arguments=gateway),
            ProcessPlan(name="orchestrator", arguments=("orchestrator",)),
            ProcessPlan(name="projector", arguments=("projector",)),
            ProcessPlan(name="watchdog", arguments=("watchdog",)),
            *(ProcessPlan(name=f"worker-{agent}", arguments=("worker", agent, *worker)) for agent in options.agents),
        ]
        if options.app is not None:
            # Beside those by name: which agents a module has, only a worker finds out.
            plans.append(ProcessPlan(name="worker-app", arguments=("worker", "--app", options.app, *worker)))
        return plans

    def _write_files(self) -> None:
        if self._stopping:
            return
        document: dict[str, Any] = {
            "url": self.url,
            "redis_url": self.redis_url,
            "postgres_url": self.postgres_url,
            "pids": self.pids(),
        }
        self._announced = True
        states = {process.plan.name: {"state": process.state, "detail": process.detail} for process in self.processes}
        write_private(self.settings.data_dir / UP_FILE, {**document, "processes": {**self._server_states, **states}})
        if self.options.ready_file is not None:
            write_private(self.options.ready_file, document)

    async def _stop(self) -> None:
        """Workers first, so that they can hand back what they hold; the servers last."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        workers = [process for process in self.processes if process.plan.name.startswith("worker")]
        others = [process for process in self.processes if process not in workers]
        for group in (workers, others):
            await asyncio.gather(*(process.stop() for process in group))
        await asyncio.gather(*(server.close() for server in self._servers.values()), return_exceptions=True)
        if self._announced:  # else the file is of another `up`, which has the directory
            (self.settings.data_dir / UP_FILE).unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def check_port(host: str, port: int) -> None:
    """Raise `ConfigurationError` with the holder of a port that is taken, before anything is started for nothing."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError:
        from tailrace.gateway.listen import bind  # noqa: PLC0415  # brings aiohttp, and knows how to say it

        bind(host, port).close()


def write_private(path: Path, document: dict[str, Any]) -> None:
    """Replace a file that only its owner may read: it holds URLs with passwords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # on a full disk there would be more of them with each try
        raise
