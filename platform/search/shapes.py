"""Figures that a shape alone decides, such as throughput and state: they are known before a trial trains.

Seconds of a step are such a figure as well, of a shape with its batch: they are known once a trial has trained.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from recallfront.platform.pareto import FloatArray
from recallfront.platform.search.surrogate import GaussianProcess, evenly


class Shapes:
    """Figures by shape: as measured, else as an earlier sweep has them, else as modelled over the knobs."""

    def __init__(self, groups: npt.NDArray[np.int64]) -> None:
        """`groups` as `Features` has them."""
        self._groups = groups
        self._measured: dict[str, dict[str, float]] = {}
        self._promised: dict[str, dict[str, float]] = {}
        self._models: dict[str, GaussianProcess] = {}  # of a metric

    def __contains__(self, shape: str) -> bool:
        """Whether a trial of this shape was measured."""
        return shape in self._measured

    def measure(self, shape: str, figures: Mapping[str, float]) -> None:
        """Take what a trial of this shape has measured."""
        self._measured[shape] = dict(figures)

    def promise(self, shape: str, figures: Mapping[str, float]) -> None:
        """Take what an earlier sweep has measured, maybe on another machine."""
        self._promised[shape] = dict(figures)

    def values(self, metric: str, shapes: Sequence[str], rows: FloatArray) -> FloatArray:
        """A metric of configurations of these shapes (n) with these rows (n, features); ones if none is known -> (n,).

        It is modelled by its logarithm.
        """
        figures = self._figures(metric)
        known = [at for at, shape in enumerate(shapes) if shape in figures]
        if not known:
            return np.ones(len(shapes))
        measured = np.log([figures[shapes[at]] for at in known])
        model = self._models.setdefault(metric, GaussianProcess(self._groups))
        once = evenly(list({shapes[at]: place for place, at in enumerate(known)}.values()))
        model.fit(
            rows[[known[place] for place in once]],
            measured[once],
            np.zeros(len(once)),
            learn=len(once) % 8 == 0,
        )
        values = np.asarray(np.exp(model.predict(rows)[0]))
        values[known] = np.exp(measured)
        return values

    def _figures(self, metric: str) -> dict[str, float]:
        """A metric by shape: as measured, else as promised, times what the measured ones differ by."""
        measured = {shape: figures[metric] for shape, figures in self._measured.items()}
        promised = {shape: figures[metric] for shape, figures in self._promised.items()}
        factor = median([measured[key] / promised[key] for key in measured.keys() & promised.keys()] or [1.0])
        return {key: factor * value for key, value in promised.items()} | measured
