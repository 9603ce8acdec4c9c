"""Text from outside, made fit for a page, a file name and a piece of code. Nothing raw goes further than this module.

A project is called whatever its owner likes; its package, its distribution and its command are plain ASCII words that
hide no module of the standard library.
"""

from __future__ import annotations

import keyword
import re
import sys
import unicodedata

TITLE_CHARACTERS = 60
NAME_CHARACTERS = 40
_TAKEN = frozenset(
    {"tests", "test", "app", "src", "site", "pytest", "ruff", "mypy", "coverage", "installer", "hatchling"}
)


def clean(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters."""
    printable = "".join(character if character.isprintable() else " " for character in text[: limit * 20])
    words = " ".join(printable.split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def title_of(name: str) -> str:
    """What people read: `calculator-app` becomes `Calculator App`; a name with spaces or capitals stays as it is."""
    text = clean(name, TITLE_CHARACTERS)
    if re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", text):
        text = re.sub(r"[-_]+", " ", text).title()
    return text or "App"


def distribution_of(name: str) -> str:
    """The name to install by: lower-case ASCII words joined by `-`."""
    plain = unicodedata.normalize("NFKD", clean(name, 200)).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", plain))[:NAME_CHARACTERS].strip("-")
    if not slug:
        return "generated-app"
    if not slug[0].isalpha():
        slug = f"app-{slug}"
    return f"{slug}-app" if _collides(slug.replace("-", "_")) else slug


def package_of(distribution: str) -> str:
    """The name to import by."""
    return distribution.replace("-", "_")


def _collides(package: str) -> bool:
    return package in sys.stdlib_module_names or keyword.iskeyword(package) or package in _TAKEN
