"""Which server program runs on which data: versions, the oldest supported, and who may open whose files.

Redis files grow forward only: a newer version of the same engine reads what an older one wrote, and Valkey reads what
Redis up to 7.2 wrote; nothing goes back. Postgres files belong to one major version. Invariant: a server that cannot
read a directory is never started on it, because some (Redis on Valkey's files) would begin by refusing, others by
writing.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

EngineName = Literal["redis", "valkey", "postgres"]

OLDEST: dict[EngineName, tuple[int, ...]] = {"redis": (7, 0), "valkey": (7, 2), "postgres": (15,)}
"""Redis 7.0 and Valkey 7.2 brought what the scripts need; Postgres 15 is the oldest tested."""

_BANNERS: tuple[tuple[EngineName, re.Pattern[str]], ...] = (
    ("valkey", re.compile(r"Valkey server v=(\d+(?:\.\d+)*)")),
    ("redis", re.compile(r"Redis server v=(\d+(?:\.\d+)*)")),
    ("postgres", re.compile(r"postgres \(PostgreSQL\) (\d+(?:\.\d+)*)")),
)
_ALLOCATOR = re.compile(r" malloc=(\S+)")


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of server and its version, as recorded in a data directory."""

    engine: EngineName
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)*$")]

    def __str__(self) -> str:
        return f"{self.engine} {self.version}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def release(self) -> tuple[int, ...]:
        """The part of the version that decides about files: major.minor, for Postgres the major alone."""
        return self.numbers[:1] if self.engine == "postgres" else self.numbers[:2]

    @property
    def supported(self) -> bool:
        """Whether Tailrace runs on it."""
        return self.numbers >= OLDEST[self.engine]

    def opens(self, made_with: "Engine") -> bool:
        """Whether this server reads the files of that one."""
        if self.engine == "postgres" or made_with.engine == "postgres":
            return self.engine == made_with.engine and self.release == made_with.release
        if self.engine == made_with.engine:
            return self.release >= made_with.release
        # Valkey forked at 7.2.4 and reads file formats up to that; Redis never reads what Valkey 9 writes, and a
        # rule that depends on which Valkey wrote last would surprise more than it helps.
        return self.engine == "valkey" and made_with.release <= (7, 2)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server program that ran and said what it is. For Postgres `program` is `postgres`, beside its `initdb`.

    `allocator` is what a Redis-compatible one says of its memory allocator: `libc`, `jemalloc-5.3.0` …
    """

    engine: Engine
    program: Path
    origin: Literal["setting", "system", "wheel"]
    allocator: str = ""

    def __str__(self) -> str:
        return f"{self.engine} ({self.origin}: {self.program})"


def allocator_from_banner(text: str) -> str:
    """Read the answer to `--version`; empty when it says nothing of an allocator."""
    found = _ALLOCATOR.search(text)
    return found[1] if found else ""


def engine_from_banner(text: str) -> Engine | None:
    """Read the answer to `--version`; None when it is no server known here."""
    for name, pattern in _BANNERS:
        if found := pattern.search(text):
            return Engine(engine=name, version=found[1])
    return None
