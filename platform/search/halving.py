"""Early stopping under several objectives: asynchronous successive halving among rivals."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from recallfront.platform.results.status import Status
from recallfront.platform.search.forecast import LOSS, Curves
from recallfront.platform.search.planner import Outcome, PlannedTrial
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
    would stay and bias what is kept upwards. Seeds that are ahead train on until the last one reaches the rung.
    """

    def __init__(self, settings: EarlyStopping, spec: SweepSpec) -> None:
        self._objectives, self._seeds = spec.objectives, set(spec.seeds)
        self._reduction, self._patience = settings.reduction, settings.patience or 1
        self._recall = next((o for o in spec.objectives if o.is_on_both_splits), None)
        self.rungs = rungs(settings, spec.training.steps)
        self._all: dict[str, _Configuration] = {}
        self._curves = Curves(spec.training.steps)
        self._trials: dict[str, set[str]] = {}  # architecture -> trials
        self._stopped: deque[_Configuration] = deque()  # the next one to look at first

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        own = self._configuration(plan)
        if own.rung:
            return Ruling(Status.PRUNED, "its configuration was stopped at an earlier rung")
        if self._recall is None or self._recall.reading not in figures:
            return None
        self._curves.add(plan.config.key, step, figures)
        reached = [r for r in self.rungs if r <= step and plan.seed not in own.rungs.get(r, {})]
        if not reached or any(o.metric not in figures for o in self._others()):
            return None
        own.known = tuple(o.sign * figures[o.metric] for o in self._others())
        rung = reached[-1]
        own.rungs.setdefault(rung, {})[plan.seed] = (figures[self._recall.reading], figures.get(LOSS, 0.0))
        if own.rungs[rung].keys() < self._seeds:
            return None
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
            own.known = tuple(o.sign * outcome.figures[o.metric] for o in self._others())
            self._curves.finish(plan.config.key, recall)

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
        architecture = plan.proposal.block.architecture
        self._trials.setdefault(architecture, set()).add(plan.config.key)
        return self._all.setdefault(plan.config.configuration_key, _Configuration(architecture))

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
            f"{standing.may:.3f} where one of them has {standing.best:.3f}",
        )

    def _standing(self, rung: int, own: _Configuration, plan: PlannedTrial) -> _Standing:
        """How a configuration stands at a rung, by what is known of its rivals now."""
        rivals = [other for other in self._all.values() if other is not own and _is_rival(other, own)]
        there = [other for other in rivals if other.rungs.get(rung, {}).keys() >= self._seeds]
        ahead = sum(_is_ahead(_mean(other.rungs[rung]), _mean(own.rungs[rung])) for other in there)
        best = max(
            (float(np.mean(list(r.final.values()))) for r in rivals if r.final.keys() >= self._seeds),
            default=0.0,
        )
        may = self._bound(own, plan)
        is_good = ahead < -(-(len(there) + 1) // self._reduction) or may + _MARGIN > best
        return _Standing(ahead, len(there), may, best, is_good)

    def _bound(self, own: _Configuration, plan: PlannedTrial) -> float:
        """The most recall that a configuration may end with, by finished curves of its architecture."""
        forecast = self._curves.forecast(plan.config.key, self._trials[own.architecture])
        return 1.0 if forecast is None else forecast.bound


def rungs(settings: EarlyStopping, steps: int) -> list[int]:
    """The steps at which trials are judged."""
    found = []
    rung = settings.first_rung_steps
    while rung < steps:
        found.append(rung)
        rung *= settings.reduction
    return found


def _is_rival(other: _Configuration, own: _Configuration) -> bool:
    """Whether a configuration is as good in everything but recall, or all but as good."""
    if other.known is None or own.known is None:
        return False
    return all(a >= b - _ALIKE * abs(b) for a, b in zip(other.known, own.known, strict=True))


def _mean(seeds: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
    recall, loss = np.mean(list(seeds.values()), axis=0)
    return float(recall), float(loss)


def _is_ahead(other: tuple[float, float], own: tuple[float, float]) -> bool:
    if abs(other[0] - own[0]) > _ALIKE:
        return other[0] > own[0]
    return other[1] < own[1]
