# ruff: noqa: RUF001 - the signs of arithmetic are meant
"""What requirements in plain English ask for: a pure function of the text.

A calculator gets exactly the operations that are named, less those that are named after a "no" or "without". Words
that have another meaning in everyday text ("add a page", "100 percent coverage", "division by zero") are not taken for
operations. Text in which nothing is understood is refused, so that no run builds something nobody asked for.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tailrace.agents.builtin.operations import BASIC, CATALOGUE
from tailrace.agents.builtin.outputs import Kind
from tailrace.agents.sdk import TaskError

READ_CHARACTERS: Final = 20_000

_CALCULATOR = re.compile(r"\b(?:calculators?|calculat(?:e|es|ing|ions?)|arithmetics?|maths?|sums|compute[sd]?)\b")
_NEGATION = re.compile(r"\b(?:no|not|without|except|excluding|never|neither|nor|don't|doesn't|omit|skip)\b")
_CLAUSE = re.compile(r"[.;:!?\n]+|,?\s+\bbut\b|\bhowever\b")
_BY_ZERO = re.compile(r"\b(?:divisions?|divid(?:e|es|ed|ing))\s+(?:\w+\s+)?by\s+(?:zero|0|nothing)\b")
_SHARE = re.compile(r"\d\s*(?:%|percents?\b)|\bpercents? coverage\b")
_LIST_MARK = re.compile(r"^\s*[-*+•]\s+(?=[^\W\d_])", re.MULTILINE)
_ARTICLES = r"(?:a|an|the|some|new|another|more|support|this|that|it|its|these|all|any)"
_OPERANDS = r"(?:\w+\s+){0,2}(?:numbers?|values?|operands?|integers?|decimals?|figures?)\b"
_VERB_ONLY = re.compile(
    rf"\b(?:add(?:s|ing)?|plus|squares?|divid(?:e|es|ing))\s+(?={_ARTICLES}\b)(?!{_ARTICLES}\s+{_OPERANDS})"
)
_POWERS = re.compile(r"\bpower(?=\s+(?:users?|on|off|supply|button|outage))")
_SQUARES = re.compile(r"\bsquare(?=\s+(?:buttons?|boxes|box|layout|corners?|cards?|keys?|grid))")
_SYMBOLS: Final = {"+": "add", "×": "multiply", "÷": "divide", "−": "subtract", "√": "square_root", "^": "power"}
_SHY_SYMBOLS: Final = {"*": "multiply", "/": "divide", "-": "subtract"}
_SYMBOL = re.compile(r"(?<![A-Za-z+\-*/])([+×÷−√^*/\-])(?![A-Za-z+\-*/])")

_ORDINARY_WORDS: Final = """
    a an the with for and to of my our your their in on that which where who is are be it this should must can will
    app application page web site website service api server endpoint health form tool dashboard list view screen
    button user users data json html build create make write show display track store manage convert count add fix
    change remove support provide serve return report simple small new
"""
_ORDINARY: Final = frozenset(_ORDINARY_WORDS.split())


class Understood(msgspec.Struct, frozen=True, kw_only=True):
    """What the text asks for, and what was assumed where it says nothing."""

    kind: Kind
    operations: tuple[str, ...]
    assumptions: tuple[str, ...]


def understand(text: str, name: str = "") -> Understood:
    """Read requirements; raises `TaskError` `requirements-empty` or `requirements-unclear`."""
    plain = text[:READ_CHARACTERS].lower().replace("’", "'").strip()
    if not plain:
        raise TaskError("requirements-empty", "there are no requirements: say in a sentence what the app should do")
    wanted, refused = _operations(plain)
    if wanted:
        names = tuple(operation.name for operation in CATALOGUE if operation.name in wanted)
        return Understood(kind="calculator", operations=names, assumptions=())
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", plain)
    calculator = bool(_CALCULATOR.search(plain))
    if not calculator and (len(words) < 2 or not _ORDINARY.intersection(words)):
        raise TaskError(
            "requirements-unclear",
            "nothing in the requirements was understood: describe in English what the app should do",
            details={"requirements": text[:200]},
        )
    if calculator or _CALCULATOR.search(name.lower().replace("-", " ").replace("_", " ")):
        basic = tuple(operation for operation in BASIC if operation not in refused)
        if not basic:
            raise TaskError("requirements-unclear", "a calculator is wanted, and every operation is ruled out")
        said = f"no operation is named, so the calculator has: {', '.join(basic)}"
        return Understood(kind="calculator", operations=basic, assumptions=(said,))
    return Understood(kind="service", operations=(), assumptions=("a page, and a JSON API that reports its health",))


def _operations(text: str) -> tuple[set[str], set[str]]:
    wanted: set[str] = set()
    refused: set[str] = set()
    for clause in _CLAUSE.split(_without_everyday_uses(text)):
        negation = _NEGATION.search(clause)
        before, after = (clause[: negation.start()], clause[negation.end() :]) if negation else (clause, "")
        refused |= _named(after)
        wanted |= _named(before)
    wanted -= refused
    if wanted:
        shy = {op.name for op in CATALOGUE if op.needs_company and re.search(rf"\b(?:{op.needs_company})\b", text)}
        wanted |= shy - refused
    return wanted, refused


def _without_everyday_uses(text: str) -> str:
    text = _LIST_MARK.sub(" ", text)
    for pattern in (_BY_ZERO, _SHARE, _VERB_ONLY, _POWERS, _SQUARES):
        text = pattern.sub(" ", text)
    return text


def _named(clause: str) -> set[str]:
    found = {operation.name for operation in CATALOGUE if re.search(rf"\b(?:{operation.words})\b", clause)}
    signs = _SYMBOL.findall(clause)
    clear = {_SYMBOLS[sign] for sign in signs if sign in _SYMBOLS}
    if clear or found:
        clear |= {_SHY_SYMBOLS[sign] for sign in signs if sign in _SHY_SYMBOLS and (clear or sign != "-")}
    return found | clear
