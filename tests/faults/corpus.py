"""All cases, in the order in which they are played: those that take longest first."""

from tests.faults import delivery, handlers, healthy, mended, read_model, store, transition
from tests.faults.case import CASES

__all__ = ["CASES", "delivery", "handlers", "healthy", "mended", "read_model", "store", "transition"]
