"""Medians of few and noisy figures."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence


class Paired(ABC):
    """What something costs, by pairs of neighbours: equal work with it and without it."""

    @abstractmethod
    def pairs(self) -> list[float]:
        """What each pair shows."""

    @property
    def median(self) -> float:
        return statistics.median(self.pairs())

    @property
    def bounds(self) -> tuple[float, float]:
        """What that median lies between with 90 % confidence: machines are noisy."""
        return median_bounds(self.pairs())


def median_bounds(values: Sequence[float]) -> tuple[float, float]:
    """What the median of the values' distribution lies between with 90 % confidence, by their order (sign test)."""
    ordered, count = sorted(values), len(values)
    outside = max(1, math.floor(count / 2 - 1.645 * math.sqrt(count) / 2))
    return ordered[outside - 1], ordered[-outside]
