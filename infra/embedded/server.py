"""The life of an embedded server: start, stop, kill, pause, and the wait for its end.

The two kinds of server fill in how data is made, what is run and what counts as ready. Invariant: the address does
not change between the first start and `close`, whatever happens to the process in between; and after `close` nothing
is left running.
"""

import abc
import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self

import msgspec

from tailrace.infra.embedded.directory import DataDirectory
from tailrace.infra.embedded.engine import Server
from tailrace.infra.embedded.errors import EmbeddedError, ServerStartError
from tailrace.infra.embedded.identity import Identity
from tailrace.infra.embedded.process import ServerProcess

_PROBE_SECONDS = 0.005

Readiness = Literal["ready", "loading", "silent"]
"""`loading` is a server that answers that it is not ready yet: reading a large log takes as long as it takes."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, as whom, with which variables, and descriptors it inherits besides its lock (closed once it runs)."""

    argv: tuple[str, ...]
    identity: Identity
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()


class EmbeddedServer(abc.ABC):
    """A server on a data directory. As a context manager it is started, and at the end stopped and let go."""

    stop_signal: ClassVar[signal.Signals]
    title: ClassVar[str]

    def __init__(self, data_dir: Path, *, tcp: bool, start_timeout_seconds: float, stop_timeout_seconds: float) -> None:
        self._directory = DataDirectory(data_dir)
        self._tcp = tcp
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._port: int | None = None
        self._server: Server | None = None
        self._process: ServerProcess | None = None
        self._password = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Address and password, as clients take them."""

    @property
    def data_dir(self) -> Path:
        """Where the data is."""
        return self._directory.path

    @property
    def log_path(self) -> Path:
        """What the server says, across starts."""
        return self._directory.log

    @property
    def port(self) -> int | None:
        """The TCP port on 127.0.0.1, when there is one."""
        return self._port

    @property
    def engine(self) -> str:
        """`valkey`, `redis` or `postgres`."""
        return self._chosen.engine.engine

    @property
    def version(self) -> str:
        """The server's version, as it says itself."""
        return self._chosen.engine.version

    @property
    def program(self) -> Path:
        """The server program in use."""
        return self._chosen.program

    @property
    def pid(self) -> int:
        """Process id of the server, or of the last one when it has ended."""
        return self._started.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (also when paused)."""
        return self._process is not None and self._process.exit_code() is None

    async def start(self) -> None:
        """Start the server and return when it answers; does nothing while it runs.

        The first start takes the data directory and fixes the address. Raises an EmbeddedError.
        """
        if self.running:
            return
        opened_here = not self._directory.is_open
        if opened_here:
            self._directory.open()
        try:
            await self._start_opened()
        except BaseException:
            if opened_here:
                self._directory.close()
            raise

    async def stop(self) -> int:
        """Shut down in order, by force after the timeout; returns the exit code. Data and address stay."""
        return await self._started.stop(self._stop_timeout_seconds)

    async def kill(self) -> int:
        """End the server and its children with SIGKILL; returns the exit code. Data and address stay."""
        return await self._started.kill()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers."""
        self._started.pause()

    def resume(self) -> None:
        """Let a paused server go on."""
        self._started.resume()

    async def wait(self) -> int:
        """Wait until the present process ends, for whatever reason; returns its exit code (negative: a signal)."""
        return await self._started.wait()

    async def close(self) -> None:
        """Stop the server if it runs, remove its sockets, let the data directory go. May be repeated."""
        try:
            if self._process is not None and self.running:
                await self.stop()
        finally:
            self._directory.close()

    @abc.abstractmethod
    async def _choose(self) -> Server:
        """Find the server program for this data."""

    @abc.abstractmethod
    async def _prepare(self, lock: int) -> Launch:
        """Bring data and configuration into the state the server starts from; programs run for it inherit `lock`."""

    @abc.abstractmethod
    async def _probe(self) -> Readiness:
        """Make a real round trip."""

    @property
    def _chosen(self) -> Server:
        if self._server is None:
            raise EmbeddedError(f"The {self.title} on {self._directory.path} was never started; call start() first.")
        return self._server

    @property
    def _started(self) -> ServerProcess:
        if self._process is None:
            raise EmbeddedError(f"The {self.title} on {self._directory.path} was never started; call start() first.")
        return self._process

    @property
    def _sockets(self) -> Path:
        if self._directory.sockets is None:
            raise EmbeddedError(f"The {self.title} on {self._directory.path} is closed; it has no address.")
        return self._directory.sockets

    async def _start_opened(self) -> None:
        if self._server is None:
            self._server = await self._choose()
        if self._tcp and self._port is None:
            self._port = free_port()
        lock = await self._directory.take_server_lock(
            stop_signal=self.stop_signal, timeout_seconds=self._stop_timeout_seconds
        )
        inherited = [lock]
        try:
            launch = await self._prepare(lock)
            inherited.extend(launch.pass_fds)
            log_start = self._directory.start_log()
            self._process = ServerProcess.start(
                launch.argv,
                identity=launch.identity.launch_words,
                stop_signal=self.stop_signal,
                log=self._directory.log,
                pass_fds=inherited,
                extra_environment=launch.environment,
            )
        finally:
            for fd in inherited:
                os.close(fd)
        try:
            await self._until_ready(self._process, log_start)
        except BaseException:
            await self._process.kill()
            raise

    async def _until_ready(self, process: ServerProcess, log_start: int) -> None:
        silent_since = time.monotonic()
        while True:
            if (code := process.exit_code()) is not None:
                raise self._start_error(f"ended with exit code {code} while starting", code, log_start)
            readiness = await self._probe()
            if readiness == "ready":
                return
            if readiness == "loading":
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > self._start_timeout_seconds:
                said = f"did not answer within {self._start_timeout_seconds:g} s"
                raise self._start_error(said, None, log_start)
            await asyncio.sleep(_PROBE_SECONDS)

    def _start_error(self, what: str, code: int | None, log_start: int) -> ServerStartError:
        lines = self._directory.last_log_lines(log_start)
        quoted = "\n".join(f"  {line}" for line in lines) or "  (it said nothing)"
        return ServerStartError(
            f"{self._chosen} {what}. Its last words, from {self._directory.log}:\n{quoted}\n"
            "Mend what they name, then start again.",
            exit_code=code,
            log_lines=lines,
        )


def free_port(attempts: int = 50) -> int:
    """A free port on 127.0.0.1 outside the range the system takes for outgoing connections.

    A port of that range may be taken by any client while the server is down for a restart, even by one that is
    trying to reach this very port.
    """
    low = 32768
    known = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if known.exists():
        low = int(known.read_text().split()[0])
    below = range(10_000, low) if low > 12_000 else range(10_000, 65_536)
    for _ in range(attempts):
        port = secrets.choice(below)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedError(f"No free port found on 127.0.0.1 in {attempts} attempts; free some, or use unix sockets.")


def quoted_words(words: Sequence[str]) -> str:
    """Words as one line of a Redis configuration file, whatever characters they hold."""
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return " ".join(f'"{word}"' for word in escaped)
