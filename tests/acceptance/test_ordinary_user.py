"""All of it as somebody without any rights: no step may need root.

Run by root, the installation belongs to `nobody`, who can reach neither root's home nor what pytest makes for root. So
interpreter and packages are linked into a folder that everybody can reach. Run by anybody else it is simply theirs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailrace
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.proc import all_gone, descendants, owner, traces_of
from tests.acceptance.scripted import AGENTS, chain

AS_ROOT = os.geteuid() == 0

#: Large, and used by the checks of this repository or by browsers only.
UNUSED = shutil.ignore_patterns(
    "playwright*", "mypy*", "*__mypyc*", "pip*", "setuptools*", "grimp*", "tailrace*", "*.pth"
)


#: Parts of the standard library's folder that no program of ours imports.
NOT_STANDARD = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "tkinter", "lib2to3", "config-*")


def link_or_copy(source: str, target: str) -> None:
    """A second name for the same file, where the file system allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def packages_for_all(place: Path) -> None:
    """What an installation of the project has, importable from `place`."""
    shutil.copytree(sysconfig.get_path("purelib"), place, ignore=UNUSED, copy_function=link_or_copy)
    (source,) = tailrace.__path__
    shutil.copytree(source, place / "tailrace")


def readable(folder: Path) -> None:
    """Let others read every folder below; files are readable already."""
    for directory, _, _ in os.walk(folder):
        Path(directory).chmod(0o755)


def interpreter_for_all(place: Path) -> tuple[str, dict[str, str]]:
    """The interpreter that runs this, in a place everybody can reach, and the environment it needs there.

    Not any other of the same version: which packages are installed depends on the last digit, too.
    """
    real = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in (real, *real.parents)):
        return str(real), {}
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, place / "lib" / library.name, ignore=NOT_STANDARD, copy_function=link_or_copy)
    for shared in library.parent.glob("libpython*.so*"):
        link_or_copy(str(shared.resolve()), str(place / "lib" / shared.name))
    (place / "bin").mkdir()
    link_or_copy(str(real), str(place / "bin" / real.name))
    return str(place / "bin" / real.name), {"LD_LIBRARY_PATH": str(place / "lib")}


@pytest.fixture
def open_to_all(folder: Path) -> Iterator[Path]:
    """A folder that every user can reach, which the folders of pytest are not; at the end it goes where they go."""
    place = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    yield place
    place.rename(folder / "place")


@pytest.mark.skipif(not AS_ROOT, reason="whoever runs this is an ordinary user: all other tests show it")
def test_works_as_ordinary_user(open_to_all: Path) -> None:
    """`nobody` starts everything, runs a pipeline and stops: every process is theirs, and none is left."""
    folder, nobody = open_to_all, pwd.getpwnam("nobody")
    packages_for_all(folder / "packages")
    python, environment = interpreter_for_all(folder / "python")
    readable(folder)
    home = folder / "h"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    installation = Installation(
        home,
        agents=AGENTS,
        environment={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": str(folder / "packages"),
            **environment,
        },
        program=[python, "-m", "tailrace.infra.cli"],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
    )
    with installation:
        measured(f"ready after {installation.started_seconds:.1f} s as {nobody.pw_name}")
        everything = descendants(installation.pids().values())
        assert {owner(pid) for pid in everything} == {nobody.pw_uid}
        assert not installation.cli("doctor").code, installation.cli("doctor")
        (home / "two.toml").write_text(chain("two", 2))
        (home / "two.toml").chmod(0o644)
        installation.ok("definitions", "apply", "two.toml")
        done = installation.ok("submit", "two", "--name", "mine", "--wait", "--json").json
        assert (done["status"], done["progress_percentage"]) == ("completed", 100)
        assert installation.end(signal.SIGINT)[0] == 0
        all_gone(everything)
        assert not traces_of(home)
