"""Starts both embedded servers as a program of its own, for tests that kill it, jail it or run it as someone else.

    python holder.py DATA_DIR [--forbid-namespaces] [--in-thread] [--wheel-postgres]

Prints one line of JSON when both are ready, and stops them when its stdin ends.
"""

import asyncio
import ctypes
import json
import os
import platform
import struct
import sys
import threading
from pathlib import Path

from tailrace.infra.embedded import embedded_servers
from tailrace.infra.embedded.choose import POSTGRES, wheel_program


def forbid_user_namespaces() -> None:
    """Make unshare(2) fail with EPERM from here on, for children too: what container engines do by default."""
    unshare_number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
    permit, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    steps = [(load, 0, 0, 0), (equal, 0, 1, unshare_number), (give, 0, 0, refuse), (give, 0, 0, permit)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(set_no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, filter_mode, program, 0, 0) == 0, os.strerror(ctypes.get_errno())


async def hold(data_dir: Path, postgres_bin: str | None) -> None:
    """Hold both servers until stdin ends."""
    async with embedded_servers(data_dir, postgres_bin=postgres_bin) as servers:
        ready = {
            "redis_url": servers.redis.url,
            "postgres_url": servers.postgres.url,
            "redis_pid": servers.redis.pid,
            "postgres_pid": servers.postgres.pid,
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main(argv: list[str]) -> None:
    """Do what the command line says."""
    data_dir, words = Path(argv[1]), argv[2:]
    if "--forbid-namespaces" in words:
        forbid_user_namespaces()
    program = wheel_program(POSTGRES) if "--wheel-postgres" in words else None
    postgres_bin = str(program.parent) if program else None
    if "--in-thread" in words:
        thread = threading.Thread(target=lambda: asyncio.run(hold(data_dir, postgres_bin)))
        thread.start()
        thread.join()
    else:
        asyncio.run(hold(data_dir, postgres_bin))


if __name__ == "__main__":
    main(sys.argv)
