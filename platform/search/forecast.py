"""What the curve of a running trial says of its end, by the curves of those that finished."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from recallfront.platform.search.rows import GrowingTable

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
    the losses at that step lie apart, and by their recall. A schedule ends with its training, so that a step of a short
    training says nothing of the same step of a long one.
    """

    def __init__(self) -> None:
        self._curves: dict[str, dict[int, Standing]] = {}
        self._like: dict[str, tuple[str, int]] = {}  # trial -> its kind, and the steps of its whole training
        self._finished: set[str] = set()
        # kind, steps of a whole training, step -> recall and loss at the step and final recall of those that finished
        self._known: dict[tuple[str, int, int], GrowingTable] = {}

    def add(self, trial: str, step: int, figures: Mapping[str, float], *, of: int, kind: str = "") -> None:
        """Take what a trial has reported; without recall and loss it is passed over.

        Args:
            of: steps of its whole training.
            kind: what a curve has in common with those that it is compared with.
        """
        if RECALL in figures and LOSS in figures:
            self._curves.setdefault(trial, {})[step] = Standing(figures[RECALL], figures[LOSS])
            self._like[trial] = kind, of

    def finish(self, trial: str, recall: float) -> None:
        """Hear that a trial has finished, with this recall."""
        if trial in self._finished or trial not in self._curves:
            return
        self._finished.add(trial)
        for step, standing in self._curves[trial].items():
            known = self._known.setdefault((*self._like[trial], step), GrowingTable(3))
            known.put(known.number, (*standing, recall))

    def last(self, trial: str) -> tuple[int, Standing] | None:
        """The newest step of a trial and how it stood."""
        own = self._curves.get(trial)
        return max(own.items()) if own else None

    def forecast(self, trial: str) -> Forecast | None:
        """What a trial may come to, judged by finished trials of its kind and length; None if they are too few."""
        newest = self.last(trial)
        if newest is None:
            return None
        step, own = newest
        known = self._known.get((*self._like[trial], step))
        if known is None or known.number < _LEAST:
            return None
        recall, loss, final = known.first(known.number).T
        spread = max(float(np.std(np.append(loss, own.loss))), 1e-3)
        distance = np.hypot((loss - own.loss) / spread, (recall - own.recall) / 0.2)
        nearest = np.argsort(distance, kind="stable")[:_NEAREST]
        weights = 1 / (0.1 + distance[nearest]) ** 2
        weights /= weights.sum()
        mean = float(weights @ final[nearest])
        scatter = float(weights @ (final[nearest] - mean) ** 2) ** 0.5
        bound = max(own.recall, mean + scatter)
        error = _LAST_ERROR + _FIRST_ERROR * (1 - min(1.0, step / self._like[trial][1]) ** 2) ** 2
        return Forecast(mean, max(error, scatter, 0.1 * float(distance[nearest[0]])), bound)
