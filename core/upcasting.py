"""Upcasting: events written by older versions are brought to today's shape when they are read; the log is never rewritten.

An upcaster takes the builtin form of one schema version of an event and gives the next one. Chains are applied in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: (event type, schema version it was written with) -> gives the next version.
UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}

#: Schema version that is written today, for every event type that left version 1.
SCHEMAS: Final[dict[str, int]] = {}


def schema_of(event_type: str) -> int:
    """The schema version today's code writes for `event_type`."""
    return SCHEMAS.get(event_type, 1)


def upcast(event_type: str, schema: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Bring `fields` from `schema` to today's; raises `KeyError` when a step is missing."""
    for version in range(schema, schema_of(event_type)):
        fields = UPCASTERS[event_type, version](fields)
    return fields
