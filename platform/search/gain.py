"""Expected gain of hypervolume when one objective is uncertain and the others are known exactly.

SciPy is imported where it is first used, so that the command starts fast.
"""

from math import sqrt

import numpy as np

from recallfront.platform.pareto import FloatArray, hypervolume

_QUANTILES = (
    -1.2816,
    -0.5244,
    0.0,
    0.5244,
    1.2816,
)  # of a normal distribution, for three and more objectives


def expected_gains(
    front: FloatArray,
    reference: FloatArray,
    *,
    uncertain: int,
    mean: FloatArray,
    deviation: FloatArray,
    known: FloatArray,
    most: float,
) -> FloatArray:
    """The hypervolume that each of n points is expected to add to a front -> (n,).

    All objectives are maximised; `front` (k, m) holds any points, dominated ones too.

    Args:
        uncertain: the objective that is normally distributed, with `mean` (n,) and `deviation` (n,).
        known: the points (n, m); their column `uncertain` is not read.
        most: what the uncertain objective can be at most.
    """
    if known.shape[1] == 2:
        other = 1 - uncertain
        return _gains_of_two(
            front[:, [uncertain, other]],
            reference[[uncertain, other]],
            mean,
            deviation,
            known[:, other],
            most,
        )
    before = hypervolume(front, reference) if len(front) else 0.0
    gains = np.zeros(len(known))
    for at, point in enumerate(known):
        for quantile in _QUANTILES:
            own = point.copy()
            own[uncertain] = min(most, mean[at] + quantile * deviation[at])
            gains[at] += hypervolume(np.vstack([front, own]) if len(front) else own[None], reference) - before
    return gains / len(_QUANTILES)


def _gains_of_two(
    front: FloatArray,
    reference: FloatArray,
    mean: FloatArray,
    deviation: FloatArray,
    other: FloatArray,
    most: float,
) -> FloatArray:
    """The same of (uncertain, known): the area between a point's uncertain value and the staircase to its left."""
    beats = front[(front > reference).all(axis=1)]
    beats = beats[np.argsort(beats[:, 1])]
    ends = np.append(beats[:, 1], np.inf)
    starts = np.append(reference[1], beats[:, 1])
    # what is reached already by anything that has at least so much of the known objective
    heights = np.append(np.maximum.accumulate(beats[::-1, 0])[::-1], reference[0])
    widths = np.clip(np.minimum(other[:, None], ends) - starts, 0.0, None)
    above = (
        _improvement(mean[:, None], deviation[:, None], heights)
        - _improvement(mean, deviation, most)[:, None]
    )
    return np.asarray((widths * np.maximum(above, 0.0)).sum(axis=1))


def _improvement(mean: FloatArray, deviation: FloatArray, threshold: FloatArray | float) -> FloatArray:
    """E[max(0, v - threshold)] of normal values v."""
    from scipy.special import ndtr

    z = (mean - threshold) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-0.5 * z * z) / sqrt(2 * np.pi)))
