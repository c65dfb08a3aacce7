"""The interval of a number from the draws of a bootstrap."""

from statistics import NormalDist
from typing import Final

import numpy as np

from recallfront.platform.pareto import FloatArray

SURE: Final = 0.95  # the part of the draws that an interval holds


def bias_corrected(measured: float, draws: FloatArray) -> tuple[float, float]:
    """Bias-corrected percentiles of the draws (Efron, Canadian Journal of Statistics 9, 1981), and the number.

    Draws of a best value lie above what was measured more often than below, those of a correlation near 1 below it: the
    percentiles are shifted by twice that, but not beyond the draws' median, as else hardly any draw may be left.
    """
    normal = NormalDist()
    half = normal.inv_cdf((1 + SURE) / 2)
    below = float((draws < measured).mean() + 0.5 * (draws == measured).mean())
    shift = 2 * normal.inv_cdf(min(max(below, normal.cdf(-half / 2)), normal.cdf(half / 2)))
    low, high = np.quantile(draws, [normal.cdf(shift - half), normal.cdf(shift + half)])
    return min(float(low), measured), max(float(high), measured)
