"""The build id: which code a process runs. Two processes of one deployment with different ids are a mismatch."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import tailrace

_LAYERS = ("core", "projections", "agents", "gateway", "infra")


@cache
def build_id() -> str:
    """`<version>+<12 hex>` over the content of every source file of the package."""
    digest = hashlib.sha256()
    package = Path(tailrace.__file__).parent
    for layer in _LAYERS:
        for path in sorted((package / layer).rglob("*")):
            if path.suffix in {".py", ".lua", ".sql"}:
                digest.update(path.name.encode())
                digest.update(path.read_bytes())
    return f"{tailrace.__version__}+{digest.hexdigest()[:12]}"
