"""All cases, in the order in which they are played: those that take longest first."""

from tests.faults import delivery, handlers
from tests.faults.case import CASES

__all__ = ["CASES", "delivery", "handlers"]
