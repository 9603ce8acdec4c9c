"""An embedded Postgres, with settings small enough to sit beside everything else.

Invariant: what it commits is on disk (`fsync` stays on), it never runs as uid 0, and only the application's role can
log in.
"""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import ClassVar

import asyncpg

from tailrace.infra.embedded import postgres_files
from tailrace.infra.embedded.choose import POSTGRES, choose_server
from tailrace.infra.embedded.cluster import DATABASE, USER, Workshop, make_cluster, set_password
from tailrace.infra.embedded.directory import new_password
from tailrace.infra.embedded.engine import Engine, Server
from tailrace.infra.embedded.errors import DataDirectoryMismatchError, DataDirectoryUnusableError
from tailrace.infra.embedded.identity import Identity, identity_not_root
from tailrace.infra.embedded.postgres_programs import reachable_programs
from tailrace.infra.embedded.server import EmbeddedServer, Launch, Readiness

_SOCKET_PORT = 5432
"""The port is part of a Postgres socket's name also where no TCP is spoken."""

_ROUND_TRIP_SECONDS = 5.0


class EmbeddedPostgres(EmbeddedServer):
    """Postgres as a child process; `url` is what asyncpg and psql take."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # the "fast" shutdown: open sessions are ended
    title: ClassVar[str] = "Postgres"

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: str | None = None,
        tcp: bool = False,
        start_timeout_seconds: float = 60,
        stop_timeout_seconds: float = 20,
    ) -> None:
        """`bin_dir`: where `initdb` and `postgres` are (default: choose)."""
        super().__init__(
            data_dir,
            tcp=tcp,
            start_timeout_seconds=start_timeout_seconds,
            stop_timeout_seconds=stop_timeout_seconds,
        )
        self._setting = bin_dir
        self._identity: Identity | None = None
        self._programs: Path | None = None

    @property
    def url(self) -> str:
        """On 127.0.0.1 with a TCP port, else through the unix socket; carries the password."""
        if self._port is not None:
            return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{DATABASE}?sslmode=disable"
        # The port is spelt out, because drivers would take one from PGPORT.
        return f"postgresql://{USER}:{self._password}@/{DATABASE}?host={self._sockets}&port={_SOCKET_PORT}"

    @property
    def _cluster(self) -> Path:
        return self._directory.path / "cluster"

    async def _choose(self) -> Server:
        made_with = self._directory.record()
        with contextlib.suppress(FileNotFoundError):  # the cluster's own word counts more than our record
            major = (self._cluster / "PG_VERSION").read_text().strip()
            if made_with is None or not made_with.version.startswith(f"{major}."):
                made_with = Engine(engine="postgres", version=f"{major}.0")
        if made_with is not None and made_with.engine != "postgres":
            raise DataDirectoryMismatchError(
                f"{self._directory.path} holds the data of {made_with}, not of Postgres. Choose another directory.",
                path=self._directory.path,
                made_with=str(made_with),
                chosen="postgres",
            )
        return await choose_server(POSTGRES, self._setting, self._directory.path, made_with)

    async def _prepare(self, lock: int) -> Launch:
        if self._identity is None or self._programs is None:
            self._identity = await identity_not_root()
            installed = self._chosen.program.parent
            self._programs = await asyncio.to_thread(reachable_programs, installed, self._identity)
        workshop = Workshop(programs=self._programs, identity=self._identity, lock=lock)
        await self._prepare_cluster(workshop)
        target, fd = postgres_files.data_argument(self._cluster, self._identity)
        argv = (str(self._programs / "postgres"), "-D", target)
        return Launch(argv=argv, identity=self._identity, pass_fds=() if fd is None else (fd,))

    async def _prepare_cluster(self, workshop: Workshop) -> None:
        kept = self._directory.password()
        self._password = kept or new_password()
        made_here = not self._cluster.exists()
        if made_here:
            self._directory.write_password(self._password)
            await make_cluster(self._cluster, self._password, workshop)
        self._directory.write_record(self._chosen.engine)
        await asyncio.to_thread(self._write_files, workshop.identity)
        if kept is None and not made_here:
            await set_password(self._cluster, self._password, workshop)
            self._directory.write_password(self._password)

    def _write_files(self, identity: Identity) -> None:
        major = self._chosen.engine.numbers[0]
        port = self._port or _SOCKET_PORT
        postgres_files.write_settings(self._cluster, self._sockets, port, tcp=self._port is not None, major=major)
        postgres_files.remove_stale_pid_file(self._cluster)
        postgres_files.give_to(self._cluster, identity)
        postgres_files.give_to(self._sockets, identity)

    async def _probe(self) -> Readiness:
        if self._port is None and not (self._sockets / f".s.PGSQL.{_SOCKET_PORT}").exists():
            return "silent"
        try:
            async with asyncio.timeout(_ROUND_TRIP_SECONDS):
                connection = await asyncpg.connect(self.url)
                try:
                    answer: object = await connection.fetchval("SELECT 1")
                finally:
                    await connection.close()
        except asyncpg.CannotConnectNowError:
            return "loading"
        except asyncpg.InvalidPasswordError as error:
            raise DataDirectoryUnusableError(
                f"The password in {self._directory.path / 'password'} is not the one of its Postgres. Restore that "
                "file, or delete it: the next start then sets another password.",
                path=self._directory.path,
            ) from error
        except (OSError, TimeoutError, asyncpg.ConnectionDoesNotExistError):
            return "silent"
        return "ready" if answer == 1 else "silent"
