"""The environment that programs in a workspace get: an allow-list, so that nothing secret is inherited by accident.

Whatever is not named here (settings of Tailrace, passwords, tokens, proxies with credentials) stays behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tailrace.core.errors import TaskError

INHERITED = frozenset({"LANG", "LANGUAGE", "TZ", "TERM", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"})
INHERITED_PREFIXES = ("LC_",)


def reduced(root: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for a program whose workspace is `root`; `extra` is added, but never a setting of Tailrace.

    `HOME` and the caches lie in the workspace: a program neither reads the configuration of the user who runs the
    worker, nor leaves anything behind elsewhere.
    """
    given = {name: value for name, value in os.environ.items() if _allowed(name)}
    home = str(root / "home")
    scripts = str(Path(sys.executable).parent)
    given |= {
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "HOME": home,
        "XDG_CACHE_HOME": str(root / "cache"),
        "XDG_CONFIG_HOME": home,
        "TMPDIR": str(root / "tmp"),
        # What is installed beside us is compiled already; a cache of its own would begin with compiling all of it.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "NO_COLOR": "1",
    }
    for name, value in (extra or {}).items():
        if name.upper().startswith("TAILRACE_"):
            raise TaskError("environment-refused", f"{name} is a setting of Tailrace and is not passed to programs")
        given[name] = value
    return given


def _allowed(name: str) -> bool:
    return name in INHERITED or name.startswith(INHERITED_PREFIXES)
