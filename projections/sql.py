"""The SQL beside the modules: `sql/<name>.sql` holds statements, each under a line `-- name: <statement>`.

One module reads one file. Nothing here builds SQL from values. Statements that write rows name their tables without a
schema: the session's search path says whether these are the ones that are read, or those that are built beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statements(name: str) -> Mapping[str, str]:
    """The statements of `sql/<name>.sql` by their names."""
    text = files("tailrace.projections").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return {key: body.strip().rstrip(";") for key, body in zip(parts[1::2], parts[2::2], strict=True)}


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (version, name, SQL), in order of version."""
    folder = files("tailrace.projections").joinpath("sql", "migrations")
    found = []
    for file in folder.iterdir():
        number, _, rest = file.name.partition("_")
        if rest.endswith(".sql"):
            found.append((int(number), rest.removesuffix(".sql"), file.read_text(encoding="utf-8")))
    return sorted(found)
