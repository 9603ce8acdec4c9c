# ruff: noqa: RUF001 - the signs of arithmetic are meant
"""The arithmetic that a generated calculator can have: names, how people write them, and one sum to check each by.

One table for all: the planner looks words up in it, the templates draw buttons and tests from it, and the end-to-end
agent calculates the examples in the running app.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. `words` is a regular expression over lower-case text; `example` is operands and result."""

    name: str
    label: str
    symbol: str
    words: str
    example: tuple[float, ...]
    sign: str = ""
    """How a sum is written out, where that is not the button's symbol; `x` stands for the only operand."""
    needs_company: str = ""
    """Words that mean this operation only where another one was found as well ("times", "plus")."""

    @property
    def operands(self) -> int:
        """One or two."""
        return len(self.example) - 1

    @property
    def result(self) -> float:
        """What the example comes to."""
        return self.example[-1]


CATALOGUE: Final[tuple[Operation, ...]] = (
    Operation(
        name="add",
        label="Add",
        symbol="+",
        words=r"additions?|add(?:s|ing)?|sums?|summing|plus",
        example=(2, 3, 5),
    ),
    Operation(
        name="subtract",
        label="Subtract",
        symbol="−",
        words=r"subtractions?|subtract(?:s|ing)?|minus|deduct(?:s|ions?)?|differences? (?:of|between)",
        example=(9, 4, 5),
    ),
    Operation(
        name="multiply",
        label="Multiply",
        symbol="×",
        words=r"multiplications?|multipl(?:y|ies|ying)|products? of",
        needs_company=r"times",
        example=(6, 7, 42),
    ),
    Operation(
        name="divide",
        label="Divide",
        symbol="÷",
        words=r"divisions?|divid(?:e|es|ing)|quotients?",
        example=(9, 2, 4.5),
    ),
    Operation(
        name="modulo",
        label="Remainder",
        symbol="mod",
        words=r"modulo|modulus|mod|remainders?",
        example=(17, 5, 2),
    ),
    Operation(
        name="power",
        label="Power",
        symbol="xʸ",
        sign="^",
        words=r"powers?|exponents?|exponentiations?|raise(?:s|d)? to|pow",
        example=(2, 10, 1024),
    ),
    Operation(
        name="square_root",
        label="Square root",
        symbol="√",
        words=r"square[- ]?roots?|sqrt|roots?",
        example=(81, 9),
    ),
    Operation(
        name="square",
        label="Square",
        symbol="x²",
        words=r"squar(?:e|es|ing)(?![- ]?root)",
        example=(12, 144),
    ),
    Operation(
        name="percentage",
        label="Percent of",
        symbol="%",
        sign="% of",
        words=r"percentages?|percents?",
        example=(20, 50, 10),
    ),
    Operation(
        name="absolute",
        label="Absolute value",
        symbol="|x|",
        words=r"absolute(?: values?)?",
        example=(-7, 7),
    ),
    Operation(
        name="factorial",
        label="Factorial",
        symbol="n!",
        sign="x!",
        words=r"factorials?",
        example=(5, 120),
    ),
)

BASIC: Final = ("add", "subtract", "multiply", "divide")
BY_NAME: Final = {operation.name: operation for operation in CATALOGUE}
