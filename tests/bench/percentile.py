"""Percentiles, as every bench here means them. Standard library only: the peers import it in environments of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that `share` of them (over 0, up to 1) do not exceed; there must be one at least."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
