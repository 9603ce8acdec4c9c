"""An embedded Postgres: makes its cluster once, then runs it with settings small enough to sit beside everything else.

The application's role `tailrace` owns the database `tailrace` and is no superuser; the superuser has no password and
so cannot log in. Invariant: a cluster is only seen under its name when it is complete and on disk, so a first start
that is cut short is simply repeated.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import ClassVar

import asyncpg

from tailrace.infra.embedded import postgres_files
from tailrace.infra.embedded.choose import POSTGRES, choose_server
from tailrace.infra.embedded.directory import sync_folder
from tailrace.infra.embedded.engine import Engine, Server
from tailrace.infra.embedded.errors import DataDirectoryMismatchError, ServerStartError
from tailrace.infra.embedded.identity import Identity, identity_not_root
from tailrace.infra.embedded.process import kernel_signals_orphans, launch_argv, run_program
from tailrace.infra.embedded.server import EmbeddedServer, Launch, Readiness

USER = DATABASE = "tailrace"
_SOCKET_PORT = 5432
"""The port is part of a Postgres socket's name also where no TCP is spoken."""

_INITDB_SECONDS = 120
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
        self._bin: Path | None = None

    @property
    def url(self) -> str:
        """On 127.0.0.1 with a TCP port, else through the unix socket; carries the password."""
        if self._port is not None:
            return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{DATABASE}"
        return f"postgresql://{USER}:{self._password}@/{DATABASE}?host={self._sockets}"

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

    async def _prepare(self) -> Launch:
        if self._identity is None or self._bin is None:
            self._identity = await identity_not_root()
            source = self._chosen.program.parent
            self._bin = await asyncio.to_thread(postgres_files.reachable_programs, source, self._identity)
        if not self._cluster.exists():
            await self._make_cluster(self._identity, self._bin)
        self._directory.write_record(self._chosen.engine)
        await asyncio.to_thread(self._ready_files, self._identity)
        target, fd = postgres_files.data_argument(self._cluster, self._identity)
        return Launch(
            argv=(str(self._bin / "postgres"), "-D", target),
            identity=self._identity,
            pass_fds=() if fd is None else (fd,),
        )

    def _ready_files(self, identity: Identity) -> None:
        major = self._chosen.engine.numbers[0]
        port = self._port or _SOCKET_PORT
        postgres_files.write_settings(self._cluster, self._sockets, port, tcp=self._port is not None, major=major)
        postgres_files.remove_stale_pid_file(self._cluster)
        postgres_files.give_to(self._cluster, identity)
        postgres_files.give_to(self._sockets, identity)

    async def _make_cluster(self, identity: Identity, programs: Path) -> None:
        """initdb and the application's role and database, beside the final place; then synced and renamed."""
        beside = self._directory.path / "cluster.new"
        await asyncio.to_thread(shutil.rmtree, beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        postgres_files.give_to(beside, identity)
        target, fd = postgres_files.data_argument(beside, identity)
        fds = () if fd is None else (fd,)
        try:
            await self._run(postgres_files.initdb_argv(programs, target), identity, fds)
            statements = "\n".join(postgres_files.first_statements(USER, DATABASE, self._password)) + "\n"
            await self._run(postgres_files.single_user_argv(programs, target), identity, fds, statements)
        finally:
            if fd is not None:
                os.close(fd)
        await asyncio.to_thread(postgres_files.finish_cluster, beside)
        beside.rename(self._cluster)
        sync_folder(self._directory.path)

    async def _run(self, argv: list[str], identity: Identity, fds: tuple[int, ...], text_input: str = "") -> None:
        death_signal = signal.SIGTERM if kernel_signals_orphans() else 0
        command = launch_argv(identity.launch_words, argv, death_signal)
        finished = await run_program(command, timeout_seconds=_INITDB_SECONDS, text_input=text_input, pass_fds=fds)
        with self._directory.log.open("a") as log:
            log.write(finished.output)
        if finished.exit_code != 0:
            lines = tuple(finished.output.splitlines()[-15:])
            quoted = "\n".join(f"  {line}" for line in lines)
            raise ServerStartError(
                f"{self._chosen} could not make its data in {self._directory.path}: {Path(argv[0]).name} ended with "
                f"exit code {finished.exit_code}. It said:\n{quoted}\nMend what it names, then start again.",
                exit_code=finished.exit_code,
                log_lines=lines,
            )

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
        except (OSError, TimeoutError, asyncpg.ConnectionDoesNotExistError):
            return "silent"
        return "ready" if answer == 1 else "silent"
