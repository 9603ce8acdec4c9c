"""What can be set about a gateway. Times in seconds, sizes in bytes; every limit protects the process from one client."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one gateway process.

    `token`: when set, every request but the two probes must bear it. `allowed_hosts`: names in `Host` that a gateway bound to
    a loopback address answers to, besides the loopback names. `store_timeout_seconds` bounds every answer that needs the store;
    `why` looks twice, and may take longer. `stream_queue` is how many events may wait for one SSE client before it is cut off.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = MIB
    read_timeout_seconds: float = 30.0
    max_wait_seconds: float = 60.0
    store_timeout_seconds: float = 5.0
    why_timeout_seconds: float = 20.0
    heartbeat_seconds: float = 15.0
    write_timeout_seconds: float = 10.0
    stream_queue: int = 1024
    max_streams: int = 5000
    shutdown_seconds: float = 5.0
