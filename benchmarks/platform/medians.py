"""Medians of few and noisy figures."""

import math
from collections.abc import Sequence


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """What the median of the values' distribution lies between with 90 % confidence, by their order (sign test)."""
    ordered, count = sorted(values), len(values)
    outside = max(1, math.floor(count / 2 - 1.645 * math.sqrt(count) / 2))
    return ordered[outside - 1], ordered[-outside]
