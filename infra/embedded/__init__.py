"""Real Redis-compatible and Postgres servers as child processes, so that Tailrace runs without anything installed.

`EmbeddedRedis` and `EmbeddedPostgres` are the servers, `embedded_servers` both at once. Settings come as arguments;
this package never reads the environment for them. Invariants: one data directory has one server at a time and is
opened only by engines that can read it; no server outlives the process that started it; what a server acknowledged
survives any kill.
"""

from tailrace.infra.embedded.errors import (
    DataDirectoryLockedError,
    DataDirectoryMismatchError,
    DataDirectoryUnusableError,
    EmbeddedError,
    ServerMissingError,
    ServerStartError,
    ServerTooOldError,
    ServerUserError,
)
from tailrace.infra.embedded.pair import EmbeddedServers, embedded_servers
from tailrace.infra.embedded.postgres import EmbeddedPostgres
from tailrace.infra.embedded.redis import EmbeddedRedis
from tailrace.infra.embedded.server import EmbeddedServer

__all__ = [
    "DataDirectoryLockedError",
    "DataDirectoryMismatchError",
    "DataDirectoryUnusableError",
    "EmbeddedError",
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServer",
    "EmbeddedServers",
    "ServerMissingError",
    "ServerStartError",
    "ServerTooOldError",
    "ServerUserError",
    "embedded_servers",
]
