"""Answers with a document in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from tailrace.core.codec import to_json
from tailrace.core.errors import NotFound

_JSON: Final = "application/json"


def document(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A struct or builtin as JSON."""
    return web.Response(status=status, body=to_json(value), headers={"Content-Type": _JSON, **(headers or {})})


def items(values: Any, next_cursor: str | None = None) -> web.Response:
    """A list, and where it goes on."""
    return document({"items": values, "next_cursor": next_cursor})


def workflow_id_of(request: web.Request) -> str:
    """The workflow id in the path; raises `NotFound` for what can't be one."""
    workflow_id = request.match_info["workflow_id"]
    if len(workflow_id) > 128 or not workflow_id.isascii() or not workflow_id.replace("-", "").isalnum():
        raise NotFound("workflow", workflow_id[:128])
    return workflow_id
