"""Gaussian processes over configurations of a mixed and conditional space.

SciPy is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Final, TypeVar

import numpy as np

from recallfront.platform.pareto import FloatArray, IntArray
from recallfront.sweeps.conditions import is_number
from recallfront.sweeps.space import Knobs, Range, Scalar, SpaceBlock

_T = TypeVar("_T")
_MOST: Final = 500  # observations: what they take grows with their cube
_JITTER: Final = 1e-8
_START: Final = 0.5  # first guess of every length scale, of features between 0 and 1


class Features:
    """Configurations as rows of numbers between 0 and 1, with the group of each column.

    A column a block and a column a knob: a number's place between the least and the most that any block gives it, by
    its logarithm if all are positive; each word of a choice has a column of its own. A knob that a block lacks is 0,
    and so is a value of an earlier sweep that has no logarithm. Columns of one knob, and those of all blocks, share a
    length scale.
    """

    def __init__(self, blocks: Sequence[SpaceBlock]) -> None:
        values: dict[str, list[Scalar]] = {}
        for block in blocks:
            for key, domain in block.domains.items():
                ends = [domain.low, domain.high] if isinstance(domain, Range) else list(domain)
                values.setdefault(key, []).extend(ends)
        self._blocks = {block.label: at for at, block in enumerate(blocks)}
        self._numbers: dict[str, tuple[float, float, bool]] = {}
        self._words: dict[str, list[str]] = {}
        groups = ["block"] * len(blocks)
        for key, own in values.items():
            numbers = [value for value in own if is_number(value)]
            if len(numbers) == len(own):
                logs = min(numbers) > 0
                low, high = (_scaled(end, logs) for end in (min(numbers), max(numbers)))
                self._numbers[key] = (low, high, logs)
                groups.append(key)
            else:
                self._words[key] = list(dict.fromkeys(map(repr, own)))
                groups += [key] * len(self._words[key])
        names = list(dict.fromkeys(groups))
        self.groups: IntArray = np.array([names.index(group) for group in groups])

    def row(self, block: SpaceBlock, knobs: Knobs) -> FloatArray:
        """One configuration (columns,)."""
        row = [float(self._blocks[block.label] == at) for at in range(len(self._blocks))]
        for key, (low, high, logs) in self._numbers.items():
            value = knobs.get(key)
            place = 0.0
            if is_number(value) and high > low and (value > 0 or not logs):
                place = (_scaled(value, logs) - low) / (high - low)
            row.append(place)
        for key, words in self._words.items():
            row += [float(key in knobs and repr(knobs[key]) == word) for word in words]
        return np.array(row)


def _scaled(value: Any, logs: bool) -> float:
    return log(value) if logs else float(value)


def evenly(observations: Sequence[_T]) -> Sequence[_T]:
    """As many of the observations as a process takes without delay, from the first to the last."""
    if len(observations) <= _MOST:
        return observations
    return [observations[at] for at in np.linspace(0, len(observations) - 1, _MOST).round().astype(int)]


@dataclass
class GaussianProcess:
    """Regression with a squared-exponential kernel, one length scale a group of columns (Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, equations 2.23 to 2.26 and 5.9).
    """

    groups: IntArray  # of the columns
    parameters: FloatArray | None = None  # logarithms: a length scale a group, amplitude, noise

    def fit(self, x: FloatArray, y: FloatArray, noise: FloatArray, *, learn: bool) -> None:
        """Take observations y (n,) at x (n, columns), each with a variance of its own besides the learned noise.

        With `learn`, length scales, amplitude and noise are those of the largest marginal likelihood, with a weak
        prior around `_START`; else they are kept.
        """
        self._mean = float(np.average(y, weights=1 / (noise + 1e-3)))
        self._scale = max(float(np.std(y)), 1e-3)
        self._x, target, extra = x, (y - self._mean) / self._scale, noise / self._scale**2
        if self.parameters is None:
            self.parameters = np.log([*([_START] * (self.groups.max() + 1)), 1.0, 0.05])
            learn = True
        if learn and len(y) > 3:
            self._learn(x, target, extra)
        kernel = self._kernel(x, x)
        kernel[np.diag_indices_from(kernel)] += np.exp(self.parameters[-1]) + extra + _JITTER
        self._factor = np.linalg.cholesky(kernel)
        inverse = np.linalg.inv(kernel)
        self._weights = inverse @ target
        # how far the observations lie from what the others say of them, over what is expected (equation 5.12)
        misses = self._weights**2 / np.diag(inverse)
        self._too_sure = max(1.0, float(np.sqrt(misses.mean())))

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the noiseless value at x (m, columns) -> (m,), (m,).

        Deviations are as much larger as the observations have shown that they must be.
        """
        from scipy.linalg import solve_triangular

        assert self.parameters is not None
        cross = self._kernel(x, self._x)
        mean = cross @ self._weights
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(np.exp(self.parameters[-2]) - (solved**2).sum(axis=0), 1e-9)
        return self._mean + self._scale * mean, self._too_sure * self._scale * np.sqrt(variance)

    def _kernel(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Covariances (len(a), len(b)) of noiseless values."""
        assert self.parameters is not None
        scales = np.exp(-self.parameters[:-2])[self.groups]
        return np.asarray(np.exp(self.parameters[-2] - 0.5 * _squares(a * scales, b * scales)))

    def _learn(self, x: FloatArray, target: FloatArray, extra: FloatArray) -> None:
        from scipy.optimize import minimize

        assert self.parameters is not None
        distances = [_squares(*2 * (x[:, self.groups == g],)) for g in range(self.groups.max() + 1)]
        flat = np.stack(distances).reshape(len(distances), -1)
        prior = np.log([*([_START] * (self.groups.max() + 1)), 1.0, 0.05])

        def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
            inner = np.exp(-2 * parameters[:-2]) @ flat
            kernel = np.exp(parameters[-2] - 0.5 * inner).reshape(len(x), len(x))
            noise = np.exp(parameters[-1])
            inverse = np.linalg.inv(kernel + np.diag(noise + extra + _JITTER))
            weights = inverse @ target
            _, log_determinant = np.linalg.slogdet(inverse)
            value = 0.5 * target @ weights - 0.5 * log_determinant
            outer = inverse - np.outer(weights, weights)
            by_kernel = outer * kernel
            of_scales = 0.5 * (flat @ by_kernel.ravel()) * np.exp(-2 * parameters[:-2])
            slopes = [*of_scales, 0.5 * by_kernel.sum(), 0.5 * np.trace(outer) * noise]
            away = parameters - prior
            return float(value + 0.25 * away @ away), np.array(slopes) + 0.5 * away

        bounds = [(-3.0, 3.0)] * (len(prior) - 2) + [(-3.0, 3.0), (-9.0, 0.0)]
        found = minimize(
            loss, self.parameters, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 15}
        )
        self.parameters = np.asarray(found.x)


def _squares(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared distances (len(a), len(b)) of rows."""
    both = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.asarray(np.maximum(both, 0.0))
