"""What is kept of a program's output: its beginning and its end, whatever the length.

Reading never stops, so a program that writes more than anyone wants to keep does not block on a full pipe.
"""

from __future__ import annotations

import asyncio

CHUNK_BYTES = 65536


class Capture:
    """The first and the last half of at most `limit_bytes` of a stream."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = max(limit_bytes // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    @property
    def truncated(self) -> bool:
        """True if bytes were left out."""
        return self._dropped > 0

    async def drain(self, stream: asyncio.StreamReader) -> None:
        """Read to the end of the stream."""
        while chunk := await stream.read(CHUNK_BYTES):
            self.feed(chunk)

    def feed(self, chunk: bytes) -> None:
        """Take bytes in order."""
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        surplus = len(self._tail) - self._half
        if surplus > 0:
            del self._tail[:surplus]
            self._dropped += surplus

    def text(self) -> str:
        """What was kept, as text that fits into a report: no NUL, no lone surrogate."""
        middle = f"\n… {self._dropped} bytes left out …\n" if self._dropped else ""
        return _decode(self._head) + middle + _decode(self._tail) if middle else _decode(self._head + self._tail)


def _decode(data: bytearray) -> str:
    return data.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
