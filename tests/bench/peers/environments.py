"""An environment of its own for each peer, with pinned versions: nothing of a peer is ever in the project's own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
#: Where the environments are kept; git ignores it.
CACHE: Final = ROOT / ".bench"
INSTALL_SECONDS: Final = 600
#: An installer may list all versions there are in one line.
LINE_LENGTH: Final = 200


class NotInstalled(Exception):
    """A peer's packages can't be had; the message has the end of what the installer said."""


def requirements(peer: str) -> Path:
    """All packages of a peer, with their versions."""
    return Path(__file__).parent / peer / "requirements.txt"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made when it is missing or pinned otherwise; else `NotInstalled`."""
    pinned = requirements(peer)
    made_from = hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()
    folder = CACHE / peer
    mark = folder / "made-from"
    if not mark.exists() or mark.read_text() != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        _run(peer, sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(peer, *pip, "--only-binary", ":all:", "--no-deps", "-r", str(pinned))
        _run(peer, *pip[:3], "check")
        mark.write_text(made_from)
    return folder / "bin" / "python"


def _run(peer: str, *command: str) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        said = "\n".join(row[:LINE_LENGTH] for row in error.stdout.splitlines()[-5:])
        raise NotInstalled(f"{peer}: {' '.join(command[1:4])} … ended with {error.returncode}:\n{said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{peer}: {error}") from error
