"""Expected gain of hypervolume when one objective is uncertain and the others are known exactly.

SciPy is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

import numpy as np

from recallfront.platform.pareto import FloatArray, non_dominated


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
    others = np.arange(known.shape[1]) != uncertain
    edge = front[(front > reference).all(axis=1)]
    edge = edge[non_dominated(edge)] if len(edge) else edge
    edge = edge[np.argsort(edge[:, uncertain], kind="stable")]
    ends = np.minimum([reference[uncertain], *edge[:, uncertain], most], most)
    above = _improvement(mean[:, None], deviation[:, None], ends)
    # how far the uncertain objective is expected to reach into each strip between two members
    depth = np.maximum(above[:, :-1] - above[:, 1:], 0.0)
    places, which = np.unique(known[:, others], axis=0, return_inverse=True)
    whole = np.maximum(places - reference[others], 0.0).prod(axis=1)
    # what the members that reach through a strip leave of its cross-section
    own = [whole - _covered(edge[at:, others], places, reference[others]) for at in range(len(edge) + 1)]
    return np.asarray((np.stack(own, axis=1)[which.reshape(-1)] * depth).sum(axis=1))


def _covered(edge: FloatArray, places: FloatArray, reference: FloatArray) -> FloatArray:
    """How much of what each of the places (n, m) dominates the points (k, m), above the reference, do -> (n,)."""
    if len(edge) == 0:
        return np.zeros(len(places))
    if edge.shape[1] == 1:
        return np.asarray(np.maximum(np.minimum(edge[:, 0].max(), places[:, 0]) - reference[0], 0.0))
    if edge.shape[1] > 2:
        return _in_slices(edge, places, reference)
    edge = edge[np.argsort(edge[:, 0])]
    starts = np.append(reference[0], edge[:-1, 0])
    heights = np.maximum.accumulate(edge[::-1, 1])[::-1]  # of the staircase that the points make
    widths = np.maximum(np.minimum(places[:, :1], edge[:, 0]) - starts, 0.0)
    return np.asarray(
        (widths * np.maximum(np.minimum(places[:, 1:], heights) - reference[1], 0.0)).sum(axis=1)
    )


def _in_slices(edge: FloatArray, places: FloatArray, reference: FloatArray) -> FloatArray:
    """`_covered`, slice by slice along the last objective: each is covered by the points that reach through it."""
    edge = edge[np.argsort(-edge[:, -1], kind="stable")]
    levels = np.maximum(np.append(edge[:, -1], reference[-1]), reference[-1])
    found = np.zeros(len(places))
    for at in range(len(edge)):
        thick = np.minimum(places[:, -1], levels[at]) - np.minimum(places[:, -1], levels[at + 1])
        reached = np.flatnonzero(thick > 0)
        if len(reached):
            across = _covered(edge[: at + 1, :-1], places[reached, :-1], reference[:-1])
            found[reached] += thick[reached] * across
    return found


def _improvement(mean: FloatArray, deviation: FloatArray, threshold: FloatArray | float) -> FloatArray:
    """E[max(0, v - threshold)] of normal values v."""
    from scipy.special import ndtr

    z = (mean - threshold) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-0.5 * z * z) / sqrt(2 * np.pi)))


def deviation_between(groups: Sequence[Sequence[float]], *, unknown: float) -> float:
    """The deviation of values from the means of their groups, pooled; `unknown` counts as one more such deviation."""
    squares = sum((value - fmean(values)) ** 2 for values in groups for value in values)
    return sqrt((squares + unknown**2) / (sum(len(values) - 1 for values in groups) + 1))
