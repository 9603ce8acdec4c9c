"""Logging of a process: one line per record on standard error, of text or JSON, with the ids of the task where there are any."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

_SECRET = re.compile(r"(://[^/\s:@]*:)[^@\s/]+@")


class _Line(logging.Formatter):
    """Time, level, logger, message; passwords in URLs never appear."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = _without_secrets(super().format(record))
        task_id = getattr(record, "task_id", None)
        return f"{text} [{task_id}]" if task_id else text


class _JsonLine(logging.Formatter):
    """The same facts as one JSON document, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _without_secrets(record.getMessage()),
        }
        if task_id := getattr(record, "task_id", None):
            document["task_id"] = task_id
        if record.exc_info:
            document["exception"] = _without_secrets(self.formatException(record.exc_info))
        return json.dumps(document, ensure_ascii=False)


def _without_secrets(text: str) -> str:
    return _SECRET.sub(r"\1***@", text)


def configure_logs(level: str, *, as_json: bool = False) -> None:
    """Log to standard error at `level` and above, as text or as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine() if as_json else _Line())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
