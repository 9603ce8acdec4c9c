"""What the tools say, in one form: each parser takes a tool's own output and gives findings.

A tool that failed without saying why in its own format is a finding as well (`tool-failed`), so that no failure passes
for silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from tailrace.agents.workspace import RunResult

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MESSAGE_CHARACTERS = 300
_COMPILE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_ERROR = re.compile(r"^\s*(?P<code>\w*(?:Error|Warning)): (?P<message>.*)$", re.MULTILINE)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong: which tool says so, where (`line` is 0 if it concerns a whole file), and what."""

    tool: str
    file: str
    line: int
    code: str
    message: str


class _RuffPlace(msgspec.Struct):
    row: int = 0


class _RuffFinding(msgspec.Struct):
    filename: str
    message: str
    code: str | None = None
    location: _RuffPlace | None = None


class _MypyFinding(msgspec.Struct):
    file: str
    line: int
    message: str
    code: str | None = None
    severity: str = "error"


class CoverageTotals(msgspec.Struct):
    """The totals of coverage's JSON report."""

    percent_covered: float
    missing_lines: int = 0


class CoverageReport(msgspec.Struct):
    """Coverage's JSON report, as far as it is needed."""

    totals: CoverageTotals


def from_compileall(result: RunResult, root: str) -> list[Finding]:
    """Files that are not Python."""
    found = []
    for block in result.stdout.split("***")[1:]:
        place, error = _COMPILE.search(block), _ERROR.search(block)
        if place and error:
            file = _relative(place["file"], root)
            found.append(_finding("compile", file, int(place["line"]), error["code"], error["message"]))
    return found or _unless_ok("compile", result)


def from_ruff(result: RunResult, root: str) -> list[Finding]:
    """Lint."""
    try:
        items = msgspec.json.decode(result.stdout, type=list[_RuffFinding])
    except msgspec.MsgspecError:
        return [_tool_failed("ruff", result)]
    found = [
        _finding(
            "ruff", _relative(item.filename, root), item.location.row if item.location else 0, item.code, item.message
        )
        for item in items
    ]
    return found or _unless_ok("ruff", result)


def from_mypy(result: RunResult, root: str) -> list[Finding]:
    """Types. Each line of the output is a document of its own; notes explain errors and are not counted."""
    found = []
    for line in result.stdout.splitlines():
        try:
            item = msgspec.json.decode(line, type=_MypyFinding)
        except msgspec.MsgspecError:
            continue
        if item.severity == "error":
            found.append(_finding("mypy", _relative(item.file, root), max(item.line, 0), item.code, item.message))
    return found or _unless_ok("mypy", result)


def from_pytest(result: RunResult, junit: bytes | None, root: str) -> tuple[int, list[Finding]]:
    """How many tests ran, and those that failed."""
    if junit is None:
        return 0, [_tool_failed("pytest", result)]
    import xml.etree.ElementTree as tree  # noqa: N813, PLC0415 - written by our own pytest, bounded in size

    try:
        cases = list(tree.fromstring(junit).iter("testcase"))  # noqa: S314 - as above; expat limits expansion
    except tree.ParseError:
        return 0, [_tool_failed("pytest", result)]
    found = [finding for case in cases for finding in _failures(case, root)]
    return len(cases), found or _unless_ok("pytest", result)


def _failures(case: Element, root: str) -> Iterator[Finding]:
    for kind in ("failure", "error"):
        for problem in case.iter(kind):
            file = _relative(case.get("file") or case.get("classname") or "", root)
            message = f"{case.get('name')}: {problem.get('message') or problem.text or ''}"
            yield _finding("pytest", file, int(case.get("line") or 0), f"test-{kind}", message)


def _unless_ok(tool: str, result: RunResult) -> list[Finding]:
    return [] if result.ok else [_tool_failed(tool, result)]


def _tool_failed(tool: str, result: RunResult) -> Finding:
    return _finding(tool, "", 0, "tool-failed", f"exit {result.exit_code}: {result.tail(MESSAGE_CHARACTERS - 20)}")


def _finding(tool: str, file: str, line: int, code: str | None, message: str) -> Finding:
    text = "".join(character if character.isprintable() else " " for character in message)
    return Finding(
        tool=tool,
        file=file[:200],
        line=line,
        code=(code or "error")[:60],
        message=" ".join(text.split())[:MESSAGE_CHARACTERS],
    )


def _relative(file: str, root: str) -> str:
    path = PurePath(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
