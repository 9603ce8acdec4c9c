"""Installs one wheel below one folder: `install_wheel.py WHEEL FOLDER`, modules into `lib`, commands into `bin`.

A program of its own: neither pip nor a network is needed, and the worker carries nothing of it in memory.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(wheel: Path, folder: Path) -> None:
    """Unpack the wheel, checking each file against the wheel's own record."""
    from installer import install  # noqa: PLC0415 - only this program pays for it
    from installer.destinations import SchemeDictionaryDestination  # noqa: PLC0415
    from installer.sources import WheelFile  # noqa: PLC0415

    library = str(folder / "lib")
    scheme = {
        "purelib": library,
        "platlib": library,
        "scripts": str(folder / "bin"),
        "data": str(folder),
        "headers": str(folder / "include"),
    }
    destination = SchemeDictionaryDestination(scheme, interpreter=sys.executable, script_kind="posix")
    with WheelFile.open(wheel) as source:
        source.validate_record()
        install(source=source, destination=destination, additional_metadata={"INSTALLER": b"tailrace"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
