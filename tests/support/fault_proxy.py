"""A TCP proxy in front of Redis or Postgres that loses replies, delays them, or refuses to be reached.

    async with FaultProxy(server) as proxy:
        proxy.lose_reply(to=b"WorkflowCreated")      # the next request with these bytes is carried out, its reply is lost
        store = await RedisStore.open(RedisSettings(url=proxy.url), ...)

A request is one chunk as the client sent it; clients of the Redis protocol send a command or a pipeline in one piece, and
those of Postgres a statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

_CHUNK = 1 << 20

Fault = Literal["lose-reply", "lose-request"]


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and forwards to the server behind `url` (`unix://`, `redis://`, `postgresql://`)."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._socket = _socket_of(self._target)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._muted: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._faults: list[tuple[Fault, Callable[[bytes], bool]]] = []
        self.refusing = False
        self.delay_seconds = 0.0
        self.connections = 0
        self.faults_done = 0

    @property
    def url(self) -> str:
        """What a client takes instead of the server's address."""
        assert self._server is not None
        address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        if self._target.scheme == "postgresql":
            user = f"{self._target.username}:{self._target.password}"
            return f"postgresql://{user}@{address}{self._target.path}?sslmode=disable"
        return f"redis://:{self._target.password}@{address}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def lose_reply(self, *, to: bytes, times: int = 1) -> None:
        """Let the next `times` requests with these bytes be carried out, then cut their connection without a reply."""
        self._faults += [("lose-reply", lambda request: to in request)] * times

    def lose_request(self, *, with_bytes: bytes, times: int = 1) -> None:
        """Cut the connection of the next `times` requests with these bytes before the server sees them."""
        self._faults += [("lose-request", lambda request: with_bytes in request)] * times

    def heal(self) -> None:
        """Let everything through from now on; faults that no request has met are forgotten."""
        self.refusing = False
        self.delay_seconds = 0.0
        self._faults.clear()

    def cut(self) -> None:
        """Drop every connection now."""
        for writer in self._writers:
            writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._socket is not None:
                back = await asyncio.open_unix_connection(self._socket)
            else:
                back = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        answers, requests = back
        self._writers.add(requests)
        try:
            async with asyncio.TaskGroup() as group:
                replies = group.create_task(self._pass(answers, writer))
                group.create_task(self._forward(reader, requests, writer, replies))
        except* OSError:
            pass  # either side went away; the other one is closed below
        finally:
            for end in (writer, requests):
                self._writers.discard(end)
                self._muted.discard(end)
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Replies, as they come."""
        while chunk := await source.read(_CHUNK):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if sink not in self._muted:
                sink.write(chunk)
                await sink.drain()
        sink.close()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        replies: asyncio.Task[None],
    ) -> None:
        """Requests, until one that meets its fault."""
        while chunk := await reader.read(_CHUNK):
            fault = self._fault_of(chunk)
            if fault == "lose-request":
                break
            if fault == "lose-reply":
                self._muted.add(client)
                requests.write(chunk)
                await requests.drain()
                # The server closes when it has read to our end: by then it has carried the request out.
                requests.write_eof()
                await asyncio.wait([replies])
                client.transport.abort()
                self.faults_done += 1
                return
            requests.write(chunk)
            await requests.drain()
        client.close()
        requests.close()

    def _fault_of(self, request: bytes) -> Fault | None:
        for place, (fault, matches) in enumerate(self._faults):
            if matches(request):
                del self._faults[place]
                if fault == "lose-request":
                    self.faults_done += 1
                return fault
        return None


def _socket_of(target: SplitResult) -> str | None:
    """The path of the unix socket that a URL names; None when it names a host."""
    if target.scheme == "unix":
        return target.path
    query = parse_qs(target.query)
    return f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}" if "host" in query else None
