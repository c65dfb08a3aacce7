"""Never training what cannot matter: throughput and state are known before a trial trains."""

from collections.abc import Mapping

import numpy as np

from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.rules import Rule, Ruling
from recallfront.sweeps.spec import SweepSpec


class Dominated(Rule):
    """Ends a trial before its first step if finished configurations dominate it even at the best recall there is.

    A configuration counts as finished with the mean of its seeds. One that would only equal a finished one in every
    objective does not matter either: it would add nothing.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self._objectives, self._seeds = spec.objectives, len(spec.seeds)
        self._values: dict[
            str, dict[int, list[float]]
        ] = {}  # configuration -> seed -> values, to be maximised

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        if step > 0 or plan.config.configuration_key in self._values:
            return None
        known = [o for o in self._objectives if not o.is_on_both_splits]
        if any(objective.metric not in figures for objective in known):
            return None
        best = [1.0 if o.is_on_both_splits else o.sign * figures[o.metric] for o in self._objectives]
        if not any(all(a >= b for a, b in zip(own, best, strict=True)) for own in self._finished()):
            return None
        shown = ", ".join(f"{o.metric} {figures[o.metric]:.6g}" for o in known)
        return Ruling(
            Status.DOMINATED, f"even at a recall of 1 a finished configuration is at least as good ({shown})"
        )

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        if outcome.status is Status.FINISHED:
            values = [o.sign * outcome.figures[o.reading] for o in self._objectives]
            self._values.setdefault(plan.config.configuration_key, {})[plan.seed] = values

    def _finished(self) -> list[list[float]]:
        return [
            list(np.mean(list(own.values()), axis=0))
            for own in self._values.values()
            if len(own) == self._seeds
        ]
