"""Never training what cannot matter: throughput and state are known before a trial trains."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recallfront.platform.pareto import FloatArray, non_dominated
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.rules import Rule, Ruling
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.spec import SweepSpec


class Dominated(Rule):
    """Ends a trial before its first step if finished configurations dominate it even at the best recall it trains to.

    A configuration counts as finished with the mean of its seeds. One that would only equal a finished one in every
    objective does not matter either: it would add nothing.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self._objectives, self._seeds = spec.objectives, len(spec.first_seeds)
        self._best = {o.metric: best_recall(spec, o) for o in spec.objectives if o.is_on_both_splits}
        # configuration -> seed -> values, to be maximised
        self._values: dict[str, dict[int, list[float]]] = {}
        self._means: dict[str, FloatArray] = {}  # of configurations that have finished
        self._edge = np.zeros((0, len(spec.objectives)))  # means that no other dominates

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        if step > 0 or plan.config.configuration_key in self._values:
            return None
        known = [o for o in self._objectives if not o.is_on_both_splits]
        if any(objective.metric not in figures for objective in known):
            return None
        best = [self._best.get(o.metric) or o.sign * figures[o.metric] for o in self._objectives]
        if not self._reaches(best):
            return None
        shown = ", ".join(f"{o.metric} {figures[o.metric]:.6g}" for o in known)
        most = min(self._best.values(), default=1.0)
        solved = ", at which it would end," if most < 1 else ""
        return Ruling(
            Status.DOMINATED,
            f"even at a recall of {most:g}{solved} a finished configuration is at least as good ({shown})",
        )

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        if outcome.status is Status.FINISHED:
            values = [o.sign * outcome.figures[o.reading] for o in self._objectives]
            own = self._values.setdefault(plan.config.configuration_key, {})
            own[plan.seed] = values
            if len(own) >= self._seeds:
                self._put(plan.config.configuration_key, np.mean(list(own.values()), axis=0))

    def _put(self, configuration: str, mean: FloatArray) -> None:
        had_another = configuration in self._means
        self._means[configuration] = mean
        if had_another:  # a further seed moves it, and what it leaves behind may belong to others
            means = np.array(list(self._means.values()))
            self._edge = means[non_dominated(means)]
        elif not self._reaches(mean):
            self._edge = np.vstack([self._edge[~(mean >= self._edge).all(axis=1)], mean])

    def _reaches(self, values: npt.ArrayLike) -> bool:
        """Whether a finished configuration is at least as good in every objective."""
        return bool((self._edge >= np.asarray(values)).all(axis=1).any())


def best_recall(spec: SweepSpec, objective: Objective) -> float:
    """The recall from which on a trial trains no further: `training.stop_at`, which knows nothing of single lengths."""
    stop = spec.training.stop_at
    return 1.0 if stop is None or objective.length is not None else stop.recall
