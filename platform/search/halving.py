"""Early stopping under several objectives: asynchronous successive halving among rivals."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

import numpy as np

from recallfront.platform.pareto import BoolArray, FloatArray
from recallfront.platform.results.status import Status
from recallfront.platform.search.forecast import LOSS, Curves
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.rows import GrowingTable
from recallfront.platform.search.rules import Rule, Ruling
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.search import EarlyStopping
from recallfront.sweeps.spec import SweepSpec

_ALIKE: Final = 0.01  # recalls this near say nothing, nor do other objectives that differ by this share
_LOOKS: Final = 4  # at stopped configurations before each new trial: each takes as long as a judgement
_MARGIN: Final = 0.02  # by which a rival's final recall must exceed what a trial may still become


@dataclass(eq=False)
class _Configuration:
    """What is known of one configuration."""

    architecture: str
    at: int  # its row in the tables of all
    rungs: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)  # -> seed -> recall, loss
    final: dict[int, float] = field(default_factory=dict)  # seed -> recall
    known: tuple[float, ...] | None = None  # the other objectives, to be maximised
    behind: int = 0  # rungs in a row at which it was not good enough
    rung: int = 0  # at which it was stopped; 0: it was not
    stopped: dict[int, PlannedTrial] = field(default_factory=dict)  # seed -> its trial


class _Standing(NamedTuple):
    """How a configuration stands at a rung."""

    ahead: int  # of its rivals
    there: int  # rivals that have come to this rung
    may: float  # the most recall that it may end with
    best: float  # recall of the best rival that has finished
    is_good: bool  # it goes on


class Halving(Rule):
    """Ends a trial at a rung if it is behind its rivals and cannot become better than one that has finished.

    Asynchronous successive halving (arXiv:1810.05934, several objectives: arXiv:2106.12639) keeps the best
    1/reduction at a rung. Here a configuration competes only with its rivals: those that are as good in everything
    but recall, and would dominate it with more of that. So the slow and accurate do not compete with the fast, nor
    does a useless one survive because it is the fastest of all. Of rivals the one of more recall is ahead; where
    recall is still the same, the one of lower loss.

    One that is behind still goes on as long as it may bloom late: if the curves of finished trials of its
    architecture, or their lack, leave room above the best finished rival (`Curves.forecast`). `patience` is the number
    of rungs in a row at which both must hold.

    A configuration is judged once a rung, on the mean of its seeds: if each seed were judged alone, the luckier one
    would stay and bias what is kept upwards. Seeds that are ahead train on until the last one reaches the rung. One
    that has finished before it counts with its final recall, one that has failed with none.
    """

    def __init__(self, settings: EarlyStopping, spec: SweepSpec) -> None:
        self._objectives, self._seeds = spec.objectives, set(spec.seeds)
        self._reduction, self._patience = settings.reduction, settings.patience or 1
        self._recall = next((o for o in spec.objectives if o.is_on_both_splits), None)
        self.rungs = rungs(settings, spec.most_steps)
        self._all: dict[str, _Configuration] = {}
        self._curves = Curves()
        # by configuration: objectives other than recall, to be maximised; then means, once all seeds are there, of
        # final recall, and of recall and loss at each rung
        self._known, self._final = GrowingTable(len(self._objectives) - 1), GrowingTable(1)
        self._at_rung = {rung: GrowingTable(2) for rung in self.rungs}
        self._stopped: deque[_Configuration] = deque()  # the next one to look at first

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        own = self._configuration(plan)
        if own.rung:
            return Ruling(Status.PRUNED, "its configuration was stopped at an earlier rung")
        if self._recall is None or self._recall.reading not in figures:
            return None
        steps, kind = plan.config.training.steps, own.architecture
        self._curves.add(plan.config.key, step, figures, of=steps, kind=kind)
        reached = [r for r in self.rungs if r <= step and plan.seed not in own.rungs.get(r, {})]
        if not reached or any(o.metric not in figures for o in self._others()):
            return None
        self._measured(own, figures)
        rung = reached[-1]
        own.rungs.setdefault(rung, {})[plan.seed] = (figures[self._recall.reading], figures.get(LOSS, 0.0))
        if own.rungs[rung].keys() < self._seeds:
            return None
        self._at_rung[rung].put(own.at, np.mean(list(own.rungs[rung].values()), axis=0))
        return self._judge_at(rung, own, plan)

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        own = self._configuration(plan)
        if outcome.status is Status.PRUNED and own.rung:
            if not own.stopped:
                self._stopped.append(own)
            own.stopped[plan.seed] = plan
        if outcome.status is Status.FINISHED and self._recall is not None:
            recall = outcome.figures[self._recall.reading]
            own.final[plan.seed] = recall
            self._measured(own, outcome.figures)
            if own.final.keys() >= self._seeds:
                self._final.put(own.at, [float(np.mean(list(own.final.values())))])
            self._curves.finish(plan.config.key, recall)
            self._stays(own, plan.seed, recall, outcome.figures.get(LOSS, 0.0))
        elif outcome.status.counts_as == "failed":
            self._stays(own, plan.seed, 0.0, inf)

    def _stays(self, own: _Configuration, seed: int, recall: float, loss: float) -> None:
        """Let a seed that reports no more stand so at the rungs ahead: its configuration is judged without waiting."""
        for rung in self.rungs:
            own.rungs.setdefault(rung, {}).setdefault(seed, (recall, loss))

    def promotable(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        for _ in range(len(self._stopped) if thorough else min(_LOOKS, len(self._stopped))):
            own = self._stopped[0]
            if self._standing(own.rung, own, next(iter(own.stopped.values()))).is_good:
                return list(own.stopped.values())
            self._stopped.rotate(-1)
        return ()

    def promoted(self, plan: PlannedTrial) -> None:
        own = self._configuration(plan)
        own.rung, own.behind = 0, 0
        if own.stopped.pop(plan.seed, None) is not None and not own.stopped:
            self._stopped.remove(own)

    def _configuration(self, plan: PlannedTrial) -> _Configuration:
        fresh = _Configuration(plan.proposal.block.architecture, len(self._all))
        return self._all.setdefault(plan.config.configuration_key, fresh)

    def _measured(self, own: _Configuration, figures: Mapping[str, float]) -> None:
        own.known = tuple(o.sign * figures[o.metric] for o in self._others())
        self._known.put(own.at, own.known)

    def _others(self) -> list[Objective]:
        return [objective for objective in self._objectives if objective is not self._recall]

    def _judge_at(self, rung: int, own: _Configuration, plan: PlannedTrial) -> Ruling | None:
        standing = self._standing(rung, own, plan)
        if standing.is_good:
            own.behind = 0
            return None
        own.behind += 1
        if own.behind < self._patience:
            return None
        own.rung = rung
        return Ruling(
            Status.PRUNED,
            f"at step {rung} {standing.ahead} of {standing.there} rivals were ahead, and it may reach a recall of "
            f"{standing.may:.3f}, while one of them has {standing.best:.3f}",
        )

    def _standing(self, rung: int, own: _Configuration, plan: PlannedTrial) -> _Standing:
        """How a configuration stands at a rung, by what is known of its rivals now."""
        number = len(self._all)
        rivals = _rivals(self._known.first(number), own.at)
        reached = self._at_rung[rung].first(number)
        there = reached[rivals & ~np.isnan(reached[:, 0])]
        ahead = int(_ahead(there, reached[own.at]).sum())
        best = float(np.fmax.reduce(self._final.first(number)[rivals, 0], initial=0.0))
        may = self._bound(plan)
        is_good = ahead < -(-(len(there) + 1) // self._reduction) or may + _MARGIN > best
        return _Standing(ahead, len(there), may, best, is_good)

    def _bound(self, plan: PlannedTrial) -> float:
        """The most recall that a configuration may end with, by finished curves of its architecture."""
        forecast = self._curves.forecast(plan.config.key)
        return 1.0 if forecast is None else forecast.bound


def rungs(settings: EarlyStopping, steps: int) -> list[int]:
    """The steps at which trials are judged."""
    found = []
    rung = settings.first_rung_steps
    while rung < steps:
        found.append(rung)
        rung *= settings.reduction
    return found


def _rivals(known: FloatArray, at: int) -> BoolArray:
    """Which configurations (n, objectives) are as good as that at `at` in everything but recall, or all but as good."""
    own = known[at]
    found = (known >= own - _ALIKE * np.abs(own)).all(axis=1)
    found[at] = False
    return np.asarray(found)


def _ahead(others: FloatArray, own: FloatArray) -> BoolArray:
    """Which of others (n, 2), recall and loss at a rung, are ahead of one (2,)."""
    level = np.abs(others[:, 0] - own[0]) <= _ALIKE
    return np.asarray(np.where(level, others[:, 1] < own[1], others[:, 0] > own[0]))
