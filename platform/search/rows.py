"""Rows of numbers that become more and more."""

from collections.abc import Sequence

import numpy as np

from recallfront.platform.pareto import FloatArray


class GrowingTable:
    """A table that grows in place; what was not put into it is NaN."""

    def __init__(self, columns: int) -> None:
        self._held: FloatArray = np.full((16, columns), np.nan)
        self.number = 0  # one more than the last row that was put

    def put(self, at: int, row: Sequence[float]) -> None:
        """Write a row."""
        self.first(at + 1)[at] = row
        self.number = max(self.number, at + 1)

    def first(self, number: int) -> FloatArray:
        """The first rows (number, columns), without a copy."""
        missing = number - len(self._held)
        if missing > 0:
            more = np.full((max(missing, len(self._held)), self._held.shape[1]), np.nan)
            self._held = np.vstack([self._held, more])
        return self._held[:number]
