"""What the curve of a running trial says of its end, by the curves of those that finished."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

RECALL: Final = "validation_recall"
LOSS: Final = "validation_loss"
_NEAREST: Final = 3  # curves that a forecast is made of
_LEAST: Final = 2  # finished curves without which there is none
# Standard deviation of a forecast's error at the last step, and what it has more at the first: the recorded curves of
# `recallfront bench search` have errors of 0.30, 0.22, 0.12, 0.05 and 0.02 after 7, 40, 53, 67 and 80 % of the steps.
_LAST_ERROR: Final = 0.02
_FIRST_ERROR: Final = 0.3


class Standing(NamedTuple):
    """How a trial stands at an evaluation."""

    recall: float
    loss: float  # nats


class Forecast(NamedTuple):
    """The final recall of a running trial, as a normal distribution, and the most that it may become."""

    mean: float
    deviation: float
    bound: float  # a standard deviation of the nearest curves' ends above their mean


class Curves:
    """Learning curves of one sweep's trials, by trial.

    Recall is flat and then jumps; the loss falls earlier. So curves are compared by their loss, relative to how far
    the losses at that step lie apart, and by their recall.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps  # of a whole training
        self._curves: dict[str, dict[int, Standing]] = {}
        self._final: dict[str, float] = {}

    def add(self, trial: str, step: int, figures: Mapping[str, float]) -> None:
        """Take what a trial has reported; without recall and loss it is passed over."""
        if RECALL in figures and LOSS in figures:
            self._curves.setdefault(trial, {})[step] = Standing(figures[RECALL], figures[LOSS])

    def finish(self, trial: str, recall: float) -> None:
        """Hear that a trial has finished, with this recall."""
        self._final[trial] = recall

    def last(self, trial: str) -> tuple[int, Standing] | None:
        """The newest step of a trial and how it stood."""
        own = self._curves.get(trial)
        return max(own.items()) if own else None

    def forecast(self, trial: str, among: set[str] | None = None) -> Forecast | None:
        """What a trial may come to, judged by finished trials (of `among`); None if they are too few."""
        newest = self.last(trial)
        if newest is None:
            return None
        step, own = newest
        known = [
            (self._curves[other][step], final)
            for other, final in self._final.items()
            if other != trial and (among is None or other in among) and step in self._curves.get(other, {})
        ]
        if len(known) < _LEAST:
            return None
        recall = np.array([standing.recall for standing, _ in known])
        loss = np.array([standing.loss for standing, _ in known])
        final = np.array([value for _, value in known])
        spread = max(float(np.std([*loss, own.loss])), 1e-3)
        distance = np.hypot((loss - own.loss) / spread, (recall - own.recall) / 0.2)
        nearest = np.argsort(distance, kind="stable")[:_NEAREST]
        weights = 1 / (0.1 + distance[nearest]) ** 2
        weights /= weights.sum()
        mean = float(weights @ final[nearest])
        scatter = float(weights @ (final[nearest] - mean) ** 2) ** 0.5
        bound = max(own.recall, mean + scatter)
        error = _LAST_ERROR + _FIRST_ERROR * (1 - min(1.0, step / self._steps) ** 2) ** 2
        return Forecast(mean, max(error, scatter, 0.1 * float(distance[nearest[0]])), bound)
