"""An embedded Redis-compatible server (Valkey from its wheel, or the system's), set up as a durable log.

Invariant: an acknowledged write is on disk (AOF, `appendfsync always`, also during a rewrite), memory is bounded and
nothing is evicted.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import ClassVar, Literal

from tailrace.infra.embedded.allocator import preloading
from tailrace.infra.embedded.choose import REDIS, choose_server
from tailrace.infra.embedded.directory import new_password, replace_file
from tailrace.infra.embedded.engine import Server
from tailrace.infra.embedded.identity import own_identity
from tailrace.infra.embedded.server import EmbeddedServer, Launch, Readiness, quoted_words

_ROUND_TRIP_SECONDS = 2.0


class EmbeddedRedis(EmbeddedServer):
    """Redis or Valkey as a child process; `url` is what redis-py takes."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    title: ClassVar[str] = "Redis-compatible server"

    def __init__(
        self,
        data_dir: Path,
        *,
        server: str | None = None,
        tcp: bool = False,
        maxmemory_bytes: int | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        start_timeout_seconds: float = 30,
        stop_timeout_seconds: float = 10,
    ) -> None:
        """`server`: a program's path or name (default: choose); `maxmemory_bytes`: default a quarter of the RAM."""
        super().__init__(
            data_dir,
            tcp=tcp,
            start_timeout_seconds=start_timeout_seconds,
            stop_timeout_seconds=stop_timeout_seconds,
        )
        self._setting = server
        self._maxmemory_bytes = maxmemory_bytes
        self._appendfsync = appendfsync

    @property
    def socket_path(self) -> Path:
        """The unix socket."""
        return self._sockets / "redis.sock"

    @property
    def url(self) -> str:
        """`redis://` with a TCP port, else `unix://`; carries the password."""
        if self._port is not None:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://:{self._password}@{self.socket_path}?db=0"

    async def _choose(self) -> Server:
        return await choose_server(REDIS, self._setting, self._directory.path, self._directory.record())

    async def _prepare(self, lock: int) -> Launch:
        kept = self._directory.password()
        self._password = kept or new_password()
        if kept is None:
            self._directory.write_password(self._password)
        self._directory.write_record(self._chosen.engine)
        config = self._directory.path / "redis.conf"
        replace_file(config, self._configuration().encode())
        return Launch(
            argv=(str(self._chosen.program), str(config)),
            identity=own_identity(),
            environment=preloading(self._chosen.allocator),
        )

    def _configuration(self) -> str:
        """The whole configuration; a file of mode 0600, because the password must not be on a command line."""
        maxmemory = self._maxmemory_bytes or available_memory_bytes() // 4
        settings: list[tuple[str, ...]] = [
            ("daemonize", "no"),
            ("port", str(self._port or 0)),
            ("bind", "127.0.0.1"),
            ("unixsocket", str(self.socket_path)),
            ("unixsocketperm", "700"),
            ("requirepass", self._password),
            ("dir", str(self._directory.path)),
            ("logfile", ""),  # stdout, which is our log file: it also has what is said before this file is read
            ("appendonly", "yes"),
            ("appendfsync", self._appendfsync),
            ("no-appendfsync-on-rewrite", "no"),
            ("auto-aof-rewrite-min-size", "256mb"),
            ("aof-load-truncated", "yes"),
            ("save", ""),
            ("maxmemory", str(maxmemory)),
            ("maxmemory-policy", "noeviction"),
        ]
        lines = [f"{name} {quoted_words(values)}" for name, *values in settings]
        return "\n".join(["# Written at each start; changes here are lost.", *lines, ""])

    async def _probe(self) -> Readiness:
        command = f"AUTH {self._password}\r\nPING\r\n".encode()
        try:
            async with asyncio.timeout(_ROUND_TRIP_SECONDS):
                reader, writer = await self._connect()
                try:
                    writer.write(command)
                    answers = [await reader.readline(), await reader.readline()]
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return "silent"
        if answers == [b"+OK\r\n", b"+PONG\r\n"]:
            return "ready"
        return "loading" if any(answer.startswith(b"-LOADING") for answer in answers) else "silent"

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._port is not None:
            return await asyncio.open_connection("127.0.0.1", self._port)
        return await asyncio.open_unix_connection(str(self.socket_path))


def available_memory_bytes() -> int:
    """The RAM this process may use: the machine's, or less where a container is limited."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            amounts.append(int(text))
    return min(amounts)
