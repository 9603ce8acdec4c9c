"""Listening: a port that is taken is named together with who has it, and stopping ends what is open."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tailrace.core.errors import ConfigurationError
from tailrace.gateway.access import is_loopback
from tailrace.gateway.settings import GatewaySettings


@asynccontextmanager
async def serving(app: web.Application, settings: GatewaySettings) -> AsyncIterator[str]:
    """Serve until the block ends; gives the base URL. Raises `ConfigurationError` when the port can't be had."""
    listener = bind(settings.host, settings.port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=settings.shutdown_seconds, handler_cancellation=False)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield url_of(listener)
    finally:
        await runner.cleanup()
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; raises `ConfigurationError` naming the port, and its holder where that can be seen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{host!r} is no address to listen on: {error}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_why(host, port, error)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """How a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        by = f" by {holder}" if holder else ""
        return f"port {port} on {host} is taken{by}; choose another with --port, or --port 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges; choose one over 1023"
    public = "" if is_loopback(host) else "; is that an address of this machine?"
    return f"can't listen on {host}:{port}: {error.strerror}{public}"


def holder_of(port: int) -> str:
    """`process 123 (name)` for the process that listens on a port, "" when it can't be seen. Linux only."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / table, port)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, wanted):
            return f"process {process.name} ({_name(process)})"
    return ""


def _listening(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    # Columns: local address as hex, state (0A is listening), inode.
    return [row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


def _holds(process: Path, wanted: set[str]) -> bool:
    try:
        return any(str(handle.readlink()) in wanted for handle in (process / "fd").iterdir())
    except OSError:
        return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
