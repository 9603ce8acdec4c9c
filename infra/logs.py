"""Logging of a process: one line per record on standard error, with the ids of the task where there are any."""

from __future__ import annotations

import logging
import re
import sys

_SECRET = re.compile(r"(://[^/\s:@]*:)[^@\s/]+@")


class _Line(logging.Formatter):
    """Time, level, logger, message; passwords in URLs never appear."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = _SECRET.sub(r"\1***@", super().format(record))
        task_id = getattr(record, "task_id", None)
        return f"{text} [{task_id}]" if task_id else text


def configure_logs(level: str) -> None:
    """Log to standard error at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
