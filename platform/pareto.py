"""Pareto mathematics on plain arrays. Every objective is oriented to be maximised; n points, m objectives.

Two objectives take O(n log n), by sorting; three or more compare points one by one with the front, and their
hypervolume is Optuna's (WFG algorithm).

Optuna is imported where it is first used, so that the command starts fast.
"""

from bisect import bisect_right
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_TIE = 1e-9  # distances to the chord, in units of the normalised front, that count as equal


def non_dominated(values: npt.ArrayLike) -> BoolArray:
    """Which points (n, m) no other point dominates -> (n,). Of equal points all are kept.

    A point dominates another when it is nowhere worse and somewhere better.

    Raises:
        ValueError: when `values` is not a finite (n, m) array.
    """
    points, twins = np.unique(_points(values), axis=0, return_inverse=True)
    return np.asarray(_maximal(points)[twins.reshape(-1)])


def surely_placed(values: npt.ArrayLike, spreads: npt.ArrayLike) -> BoolArray:
    """Which points (n, m) keep their place, on or off the front, when all move within spreads (n, m) -> (n,).

    A member is sure when, at its worst, the others at their best still do not dominate it; any other point
    when, at its best, some other point at its worst still dominates it.

    Raises:
        ValueError: when an array is not finite, their shapes differ, or a spread is negative.
    """
    points, widths = _points(values), _points(spreads)
    if points.shape != widths.shape or (widths < 0).any():
        raise ValueError(
            f"spreads must be non-negative and of shape {points.shape}, got shape {widths.shape}"
        )
    best, worst, member = points + widths, points - widths, non_dominated(points)
    beaten = np.zeros(len(points), dtype=bool)
    # at its best a point is never dominated by itself at its worst; the other way around it may be
    beaten[~member] = _dominated(best[~member], worst)
    own = np.flatnonzero(member)
    beaten[own] = _dominated(worst[own], best, besides=own)
    return np.asarray(beaten != member)


def ranks(values: npt.ArrayLike) -> IntArray:
    """The front each point (n, m) belongs to when fronts are peeled off one by one; the best is 0 -> (n,).

    Raises:
        ValueError: when `values` is not a finite (n, m) array.
    """
    points, twins = np.unique(_points(values), axis=0, return_inverse=True)
    found = _ranks_of_two(points) if points.shape[1] == 2 else _peel(points)
    return np.asarray(found[twins.reshape(-1)])


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The measure of the region that the points (n, m) dominate and that dominates the reference (m,).

    Points that do not beat the reference in every objective add nothing.

    Raises:
        ValueError: when an array is not finite, or the reference is not of shape (m,).
    """
    points, origin = _points(values), _reference(reference, values)
    points = points[(points > origin).all(axis=1)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(points.max() - origin[0])
    if points.shape[1] == 2:
        return _area(points, origin)
    from optuna._hypervolume import compute_hypervolume  # private, hence the upper bound on optuna

    return float(compute_hypervolume(-points, -origin))


def contributions(values: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """The hypervolume lost when a point of (n, m) is taken away -> (n,); 0 off the front and for twins.

    Raises:
        ValueError: when an array is not finite, or the reference is not of shape (m,).
    """
    points, origin = _points(values), _reference(reference, values)
    lost = np.zeros(len(points))
    members = np.flatnonzero(non_dominated(points) & (points > origin).all(axis=1))
    front = points[members]
    if points.shape[1] == 2:
        lost[members] = _own_areas(front, origin)
        return lost
    for place, index in enumerate(members):
        own = front[place]
        # what the others dominate of its own box; of them few are left once they are cut off at its sides
        others = np.minimum(np.delete(front, place, axis=0), own)
        shared = hypervolume(others[non_dominated(others)], origin)
        lost[index] = max(0.0, float(np.prod(own - origin)) - shared)
    return lost


class GrowingFront:
    """The front of points that come one after the other, and may move; most of them cost a comparison with the front.

    Reference and points are finite and oriented to be maximised.
    """

    def __init__(self, reference: npt.ArrayLike) -> None:
        self._reference = np.asarray(reference, dtype=np.float64)
        self._points: dict[Hashable, FloatArray] = {}
        self._members: dict[Hashable, FloatArray] = {}
        self._edge: FloatArray = np.zeros((0, len(self._reference)))  # the members' points
        self.hypervolume = 0.0
        self.changes = 0  # how many times the front has become another one

    def put(self, name: Hashable, point: npt.ArrayLike) -> None:
        """Add a point (m,), or move the one of this name."""
        own = np.asarray(point, dtype=np.float64)
        before, self._points[name] = self._points.get(name), own
        if before is not None and np.array_equal(before, own):
            return
        if name not in self._members and self._is_dominated(own):
            return
        # what a member leaves behind may now belong to others
        rivals = self._points if name in self._members else self._members | {name: own}
        names, points = list(rivals), np.array(list(rivals.values()))
        kept = non_dominated(points)
        members = {names[index]: points[index] for index in np.flatnonzero(kept)}
        if name in members or name in self._members:
            self._members, self._edge = members, points[kept]
            self.hypervolume = hypervolume(points[kept], self._reference)
            self.changes += 1

    def _is_dominated(self, point: FloatArray) -> bool:
        nowhere_worse, somewhere_better = self._edge >= point, self._edge > point
        return bool((nowhere_worse.all(axis=1) & somewhere_better.any(axis=1)).any())


def chord_distances(values: npt.ArrayLike) -> FloatArray:
    """How far each point (n, m) lies above the chord of the front: the plane through its ends -> (n,).

    Objectives are first scaled so that the front spans 0 to 1 in each; with two of them its ends are at 0.
    The definition is Das's (Structural Optimization 18, 1999).

    Raises:
        ValueError: when `values` is not a finite (n, m) array.
    """
    points = _points(values)
    if len(points) == 0:
        return np.zeros(0)
    scaled = _normalised(points)
    return np.asarray((scaled.sum(axis=1) - 1.0) / np.sqrt(points.shape[1]))


def knee(values: npt.ArrayLike) -> int | None:
    """The index of the front's member that lies farthest above the chord; of equally far ones, of the highest first
    objective. None if no member lies above it, as on a front of one or two members, on a straight or on a hollow one.

    Raises:
        ValueError: when `values` is not a finite (n, m) array.
    """
    points = _points(values)
    members = np.flatnonzero(non_dominated(points))
    distance = chord_distances(points)[members]
    if len(members) < 3 or distance.max() <= _TIE:
        return None
    farthest = members[distance >= distance.max() - _TIE]
    return int(farthest[np.argmax(points[farthest, 0])])


def trade_off_ratio(values: npt.ArrayLike) -> FloatArray:
    """The least loss per unit of gain when a point of (n, m) is exchanged for another -> (n,).

    Losses and gains are summed over the objectives, scaled as for `chord_distances`. Above 1, every exchange
    loses more than it wins; a dominated point has 0; it is infinite if no exchange wins anything.
    The definition is Rachmawati and Srinivasan's (IEEE Trans. Evolutionary Computation 13, 2009).

    Raises:
        ValueError: when `values` is not a finite (n, m) array.
    """
    points = _points(values)
    ratio = np.full(len(points), np.inf)
    if len(points) == 0:
        return ratio
    scaled = _normalised(points)
    for index, own in enumerate(scaled):
        loss = np.maximum(own - scaled, 0.0).sum(axis=1)
        gain = np.maximum(scaled - own, 0.0).sum(axis=1)
        if (gain > 0).any():
            ratio[index] = (loss[gain > 0] / gain[gain > 0]).min()
    return ratio


def _points(values: npt.ArrayLike) -> FloatArray:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"values must be a finite array of shape (points, objectives), got {_shown(points)}")
    return points


def _reference(reference: npt.ArrayLike, values: npt.ArrayLike) -> FloatArray:
    origin, objectives = np.asarray(reference, dtype=np.float64), np.shape(values)[1]
    if origin.shape != (objectives,) or not np.isfinite(origin).all():
        raise ValueError(f"reference must hold {objectives} finite numbers, got {_shown(origin)}")
    return origin


def _shown(array: npt.NDArray[Any]) -> str:
    return f"shape {array.shape} with {int((~np.isfinite(array)).sum())} values that are not finite"


def _dominators(points: FloatArray, point: FloatArray) -> BoolArray:
    """Which of the points (n, m) dominate the one point (m,) -> (n,)."""
    return np.asarray((points >= point).all(axis=1) & (points > point).any(axis=1))


def _maximal(points: FloatArray) -> BoolArray:
    """Which of distinct points (n, m), sorted as `np.unique` sorts, no other dominates -> (n,)."""
    found = np.zeros(len(points), dtype=bool)
    if points.shape[1] == 2:
        # seen from the last, none that comes later is better in the first objective
        best = np.maximum.accumulate(points[::-1, 1])[::-1]
        found[:-1] = points[:-1, 1] > best[1:]
        found[-1:] = True
        return found
    left = np.arange(len(points))
    while len(left):
        # the last of those that are left comes first in the order: nothing left dominates it
        found[left[-1]] = True
        left = left[(points[left] > points[left[-1]]).any(axis=1)]
    return found


def _ranks_of_two(points: FloatArray) -> IntArray:
    """`ranks` of distinct points (n, 2), sorted as `np.unique` sorts: each belongs to the first front that does not
    dominate it, and the best second objectives of the fronts so far fall from front to front (Jensen, IEEE Trans.
    Evolutionary Computation 7, 2003)."""
    rank = np.empty(len(points), dtype=np.int64)
    lowered: list[float] = []  # the best second objective of each front, negated
    for index in range(len(points) - 1, -1, -1):
        height = -float(points[index, 1])
        place = bisect_right(lowered, height)
        lowered[place : place + 1] = [height]
        rank[index] = place
    return rank


def _peel(points: FloatArray) -> IntArray:
    """`ranks` of distinct points (n, m), sorted as `np.unique` sorts."""
    rank = np.zeros(len(points), dtype=np.int64)
    left, level = np.arange(len(points)), 0
    while len(left):
        current = _maximal(points[left])
        rank[left[current]] = level
        left, level = left[~current], level + 1
    return rank


def _dominated(asked: FloatArray, points: FloatArray, besides: IntArray | None = None) -> BoolArray:
    """Which of the points asked for (k, m) another of (n, m) dominates -> (k,), those at `besides` (k,) left out."""
    if points.shape[1] != 2:
        found = np.zeros(len(asked), dtype=bool)
        for index, own in enumerate(asked):
            dominators = _dominators(points, own)
            if besides is not None:
                dominators[besides[index]] = False
            found[index] = dominators.any()
        return found
    order = np.argsort(-points[:, 0], kind="stable")
    across = -points[order, 0]
    first, second, owner = _two_highest(points[order, 1], order)
    found = np.zeros(len(asked), dtype=bool)
    # better in the first objective and no worse in the second, or no worse in the first and better in the second
    better = np.searchsorted(across, -asked[:, 0], side="left")
    no_worse = np.searchsorted(across, -asked[:, 0], side="right")
    for number, compare in ((better, np.greater_equal), (no_worse, np.greater)):
        highest = first[number]
        if besides is not None:
            highest = np.where(owner[number] == besides, second[number], highest)
        found |= compare(highest, asked[:, 1])
    return found


def _two_highest(heights: FloatArray, names: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """The highest and second highest among the first k heights, and the name of the highest, for k = 0 to n."""
    first, second = np.full(len(heights) + 1, -np.inf), np.full(len(heights) + 1, -np.inf)
    owner = np.full(len(heights) + 1, -1, dtype=np.int64)
    for index, height in enumerate(heights.tolist()):
        if height > first[index]:
            first[index + 1], second[index + 1], owner[index + 1] = height, first[index], names[index]
        else:
            first[index + 1], owner[index + 1] = first[index], owner[index]
            second[index + 1] = max(second[index], height)
    return first, second, owner


def _own_areas(front: FloatArray, origin: FloatArray) -> FloatArray:
    """The area that each member (n, 2) of a front alone dominates -> (n,); twins dominate none alone."""
    order = np.lexsort((front[:, 1], front[:, 0]))
    across, up = front[order, 0], front[order, 1]
    widths = across - np.append(origin[0], across[:-1])
    heights = up - np.append(up[1:], origin[1])
    areas = np.empty(len(front))
    areas[order] = widths * heights
    return areas


def _area(points: FloatArray, origin: FloatArray) -> float:
    """The area under the staircase of points (n, 2): strips from the right, as high as the best so far."""
    points = points[np.argsort(-points[:, 0], kind="stable")]
    widths = points[:, 0] - np.append(points[1:, 0], origin[0])
    heights = np.maximum.accumulate(points[:, 1]) - origin[1]
    return float(widths @ heights)


def _normalised(points: FloatArray) -> FloatArray:
    """Points (n, m) scaled so that the front spans 0 to 1 in every objective in which it has an extent."""
    front = points[non_dominated(points)]
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    return np.asarray((points - low) / np.where(span > 0, span, 1.0))
