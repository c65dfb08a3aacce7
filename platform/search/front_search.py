"""Search by expected gain of hypervolume for each second of training: recall is modelled, all else is known exactly.

SciPy is imported where it is first used, so that the command starts fast.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan
from statistics import fmean
from typing import Final

import numpy as np
import numpy.typing as npt

from recallfront.platform.pareto import FloatArray
from recallfront.platform.results.status import Status
from recallfront.platform.search.configurations import Configuration, configurations, name, shape
from recallfront.platform.search.dominated import best_recall
from recallfront.platform.search.forecast import Curves
from recallfront.platform.search.gain import deviation_between, expected_gains
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.proposals import Ending, Proposal, Told, proposal_from_json
from recallfront.platform.search.rules import SECONDS_PER_STEP, Rule, Ruling
from recallfront.platform.search.shapes import Shapes
from recallfront.platform.search.surrogate import Features, GaussianProcess, evenly
from recallfront.platform.search.warm_start import Earlier
from recallfront.sweeps.space import TRAINING_PREFIX, Knobs, SpaceBlock
from recallfront.sweeps.spec import SweepSpec

_LEARN_AGAIN: Final = 1.15  # growth of the observations after which length scales are learned again
_LEAST_CHANCE: Final = 0.1  # to be on the front in the end, with which a trial goes on
_GOOD_CHANCE: Final = 0.3  # with which one that was ended goes on after all
# Forecasts err alike, which the model does not know: each counts as if it were less sure.
_ALIKE: Final = 2.0
_BATCH: Final = ("batch_size", "accumulation")  # settings that a step's seconds depend on, beside the shape
_PATIENCE: Final = 3  # evaluations before a trial may be ended
# deviation of recall between seeds, as long as none has several: what 1,000 questions leave open
_SEEDS: Final = 0.02
_LOOKS: Final = 64  # at stopped configurations before each new trial: each takes as long as a judgement


class FrontSearch(Rule):
    """Proposes configurations, and ends trials, by the hypervolume that each second of training is expected to add.

    A Gaussian process models final recall over the blocks and knobs. It learns from finished trials, from those that
    diverged, which recall nothing, and from running and stopped ones by what their curves promise. What else is an
    objective depends on the shape alone: it is read from the first report of any trial of that shape, and modelled in
    the same way until there is one. Trials of an earlier sweep, maybe of another machine, tell recall, and the rest up
    to a factor.

    Where seeds are run as needed, a further seed of a finished configuration competes with new configurations: it is
    worth what the mean recall is expected to gain by it.
    """

    def __init__(
        self,
        spec: SweepSpec,
        told: Iterable[Told] = (),
        proposed: int = 0,
        unfinished: Iterable[Proposal] = (),
        earlier: Iterable[Earlier] = (),
    ) -> None:
        self._spec = spec
        self._random = np.random.default_rng(spec.search.seed)
        self._recall = next(at for at, o in enumerate(spec.objectives) if o.is_on_both_splits)
        self._most = best_recall(spec, spec.objectives[self._recall])
        self._signs = np.array([o.sign for o in spec.objectives])
        self._reference = self._signs * np.array([o.reference for o in spec.objectives])
        self._features = features = Features(spec.blocks)
        self._candidates = {
            name(block, knobs): self._made(block, knobs)
            for block, knobs in configurations(spec.blocks, self._random)
        }
        self._all = list(self._candidates.values())
        self._rows = np.stack([candidate.row for candidate in self._all])
        self._place = {id(candidate): at for at, candidate in enumerate(self._all)}
        self._model = GaussianProcess(features.groups)
        self._shapes, self._paces = Shapes(features.groups), Shapes(features.groups)
        self._curves = Curves()
        self._live: dict[str, Configuration] = {}  # trial -> its configuration
        self._partial: dict[str, Configuration] = {}  # the same, and trials that were stopped
        self._ended: list[Configuration] = []  # configurations of which a trial has finished
        self._diverged: list[Configuration] = []  # one for each trial that has
        self._stopped: deque[Configuration] = deque()  # the next one to look at first
        self._finished: dict[int, float] | None = None  # place of a finished configuration -> its recall
        self._learned_at = self._number = 0
        self._found_none = ""  # why it had no further configuration when it was last asked
        self._is_fit = False
        self._known: FloatArray | None = None
        self._cost: FloatArray | None = None
        self._earlier: list[tuple[FloatArray, float]] = []
        self._take(earlier)
        for raw, ending, values in told:
            proposal = proposal_from_json(spec, raw)
            self._candidate(proposal).asked.update(proposal.seeds(spec))
            self.tell(proposal, ending, values)
        for proposal in unfinished:
            self._candidate(proposal).asked.update(proposal.seeds(spec))
        self._number = proposed

    def _made(self, block: SpaceBlock, knobs: Knobs) -> Configuration:
        steps = knobs.get(f"{TRAINING_PREFIX}steps", self._spec.training.steps)
        row = self._features.row(block, knobs)
        own = shape(block, knobs)
        batch = " ".join([own, *(str(knobs.get(f"{TRAINING_PREFIX}{name}")) for name in _BATCH)])
        return Configuration(block, knobs, row, own, batch, max(1.0, float(steps or 0)))

    def _take(self, earlier: Iterable[Earlier]) -> None:
        reading = self._spec.objectives[self._recall].reading
        others = [o.metric for at, o in enumerate(self._spec.objectives) if at != self._recall]
        for trial in earlier:
            recall = trial.metrics.get(reading, nan)
            if not isfinite(recall):  # the store has lost it
                continue
            self._earlier.append((self._features.row(trial.block, trial.knobs), recall))
            if all(trial.metrics.get(metric, 0.0) > 0 for metric in others):
                self._shapes.promise(shape(trial.block, trial.knobs), {m: trial.metrics[m] for m in others})

    def ask(self) -> Proposal | None:
        trials = self._spec.search.trials
        if trials is not None and self._number >= trials:
            return None
        while (candidate := self._choose()) is not None:
            if candidate.asked or candidate.is_possible(self._spec):
                some = () if self._spec.search.seeds == "all" else (candidate.left(self._spec.seeds)[0],)
                proposal = Proposal(self._number, candidate.block, candidate.knobs, some_seeds=some)
                candidate.asked.update(proposal.seeds(self._spec))
                self._number += 1
                return proposal
            candidate.asked.update(self._spec.seeds)
        return None

    def notes(self) -> list[str]:
        if not self._found_none:
            return []
        kind = "configurations" if self._spec.search.seeds == "all" else "trials"
        number = f"{self._number} of {self._spec.search.trials} {kind}"
        return [f"the search ended after {number}: {self._found_none}"]

    def expects(self, trials: int) -> float | None:
        if self._draws_at_random():
            return None
        left = (self._spec.search.trials or 0) - self._number
        number = min(-(-trials // len(self._spec.first_seeds)), left)
        gains = np.sort(self._gains() + self._gains_of_seeds())[::-1]
        return float(gains[:number].sum()) if number > 0 and gains.max() > 0 else None

    def tell(self, proposal: Proposal, ending: Ending, values: Sequence[float] | None) -> None:
        """Take a result, of which it knows more where it has heard the trials themselves (`judge`, `ended`)."""
        candidate = self._candidate(proposal)
        candidate.over.update(proposal.seeds(self._spec))
        if values is not None and not candidate.finished.keys() & proposal.seeds(self._spec):
            metrics = [o.metric for o in self._spec.objectives]
            self._measured(candidate, dict(zip(metrics, values, strict=True)))
            if not candidate.finished:
                self._ended.append(candidate)
            candidate.finished |= dict.fromkeys(proposal.seeds(self._spec), values[self._recall])
            self._forget()

    def _candidate(self, proposal: Proposal) -> Configuration:
        """The configuration of a proposal; one that an earlier version of the space's values gave is added."""
        key = name(proposal.block, proposal.knobs)
        if key not in self._candidates:
            added = self._candidates[key] = self._made(proposal.block, proposal.knobs)
            added.asked.update(proposal.seeds(self._spec))
            self._place[id(added)] = len(self._all)
            self._all.append(added)
            self._rows = np.vstack([self._rows, added.row])
            self._is_fit, self._known, self._cost = False, None, None
        return self._candidates[key]

    def _choose(self) -> Configuration | None:
        open_ = [c for c in self._all if not c.asked]
        self._found_none = "" if open_ else "it found no further one in the space"
        if not open_ and (self._spec.search.seeds == "all" or not self._ended):
            return None
        if open_ and self._draws_at_random():
            asked = [c.block.label for c in self._all if c.asked]
            fewest = min(asked.count(c.block.label) for c in open_)
            rarest = [c for c in open_ if asked.count(c.block.label) == fewest]
            return rarest[int(self._random.integers(len(rarest)))]
        gains = (self._gains() + self._gains_of_seeds()) / self._costs()
        best = int(np.argmax(gains))
        if gains[best] > 0:
            return self._all[best]
        self._found_none = "it expects no gain of hypervolume of any further one"
        return None

    def _draws_at_random(self) -> bool:
        """Whether it has seen too little to model recall."""
        startup = (self._spec.search.drawn_at_random or 0) - len(self._earlier)
        return self._number < startup or len(self._ended) + len(self._earlier) < 3

    def heard(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> None:
        """Take a report; what is known today says nothing of how it was judged in an earlier run of the sweep."""
        key = plan.config.key
        candidate = self._candidate(plan.proposal)
        self._live[key] = self._partial[key] = candidate
        if candidate.shape not in self._shapes:
            self._measured(candidate, figures)
        self._curves.add(key, step, figures, of=plan.config.training.steps)
        if SECONDS_PER_STEP in figures:
            self._cost = self._cost if candidate.batch in self._paces else None
            self._paces.measure(candidate.batch, {SECONDS_PER_STEP: figures[SECONDS_PER_STEP]})

    def _costs(self) -> FloatArray:
        """What each configuration's training takes: in seconds, or in steps as long as no trial has told its pace."""
        if self._cost is None:
            paces = self._paces.values(SECONDS_PER_STEP, [c.batch for c in self._all], self._rows)
            self._cost = paces * np.array([candidate.steps for candidate in self._all])
        return self._cost

    def ruled(self, plan: PlannedTrial) -> None:
        self._candidate(plan.proposal).is_stopped = True

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        self.heard(plan, step, figures)
        candidate = self._candidate(plan.proposal)
        if candidate.finished and self._spec.search.seeds != "all":
            return None  # a mean without its lower seeds would be too high
        if candidate.is_stopped:
            return Ruling(Status.PRUNED, "another seed of its configuration was stopped")
        if step < _PATIENCE * plan.config.training.evaluate_every or len(self._ended) < 3:
            return None
        return self._judge_running(candidate)

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        key = plan.config.key
        candidate = self._candidate(plan.proposal)
        self._live.pop(key, None)
        reading = self._spec.objectives[self._recall].reading
        if outcome.status is Status.FINISHED:
            if candidate.shape not in self._shapes:
                self._measured(candidate, outcome.figures)
            self._curves.finish(key, outcome.figures[reading])
            if not candidate.finished:
                self._ended.append(candidate)
            candidate.finished[plan.seed] = outcome.figures[reading]
        elif outcome.status is Status.PRUNED and candidate.is_stopped:
            if not candidate.stopped:
                self._stopped.append(candidate)
            candidate.stopped[plan.seed] = plan
        elif outcome.status not in (Status.PRUNED, Status.DOMINATED):
            self._partial.pop(key, None)
            if outcome.status is Status.DIVERGED:
                self._diverged.append(candidate)
        self._forget()

    def promotable(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        number = len(self._stopped) if thorough else min(_LOOKS, len(self._stopped))
        looked_at = [self._stopped[at] for at in range(number)]
        ended = [(plan.config.key, c) for c in looked_at for plan in c.stopped.values()]
        chances = self._chances(ended)
        if max(chances, default=0.0) < _GOOD_CHANCE:
            self._stopped.rotate(-number)
            return ()
        return list(ended[int(np.argmax(chances))][1].stopped.values())

    def promoted(self, plan: PlannedTrial) -> None:
        candidate = self._candidate(plan.proposal)
        candidate.is_stopped = False
        if candidate.stopped.pop(plan.seed, None) is not None and not candidate.stopped:
            self._stopped.remove(candidate)
        self._live[plan.config.key] = candidate
        self._forget()

    def _judge_running(self, candidate: Configuration) -> Ruling | None:
        # by its best seed, as `promotable` does: what is stopped would be promoted at once otherwise
        chance = max(self._chances([live for live in self._live.items() if live[1] is candidate]))
        if chance >= _LEAST_CHANCE:
            return None
        candidate.is_stopped = True
        return Ruling(Status.PRUNED, f"its chance to be on the front in the end was {chance:.1%}")

    def _chances(self, trials: Sequence[tuple[str, Configuration]]) -> list[float]:
        """Chances of trials to be on the front in the end: the better of what the model and its own curve say."""
        from scipy.special import ndtr

        if not trials:
            return []
        self._fit()
        at = [self._place[id(candidate)] for _, candidate in trials]
        front, others = self._front(), np.arange(len(self._signs)) != self._recall
        chances = []
        for (key, _), known, says in zip(
            trials,
            self._known_values()[at],
            zip(*self._model.predict(self._rows[at]), strict=True),
            strict=True,
        ):
            rivals = front[(front[:, others] >= known[others]).all(axis=1), self._recall]
            best = float(rivals.max(initial=0.0))
            forecast = self._curves.forecast(key)
            own = [] if forecast is None else [(forecast.mean, forecast.deviation)]
            chances.append(max(float(ndtr((mean - best) / width)) for mean, width in [says, *own]))
        return chances

    def _forget(self) -> None:
        self._is_fit, self._finished = False, None

    def _measured(self, candidate: Configuration, figures: Mapping[str, float]) -> None:
        metrics = [o.metric for at, o in enumerate(self._spec.objectives) if at != self._recall]
        if all(metric in figures for metric in metrics):
            self._shapes.measure(candidate.shape, {metric: figures[metric] for metric in metrics})
            self._known = None

    def _fit(self) -> None:
        """Tell the model of recall what is known by now."""
        if self._is_fit:
            return
        told: list[tuple[FloatArray, float | str]] = [*self._earlier]
        told += [(c.row, recall) for c in self._ended for recall in c.finished.values()]
        told += [(c.row, 0.0) for c in self._diverged]
        told += [(c.row, key) for key, c in self._partial.items() if not c.finished]
        seen = []
        for row, known in evenly(told):
            if not isinstance(known, str):
                seen.append((row, known, 0.0))
            elif (forecast := self._curves.forecast(known)) is not None:
                seen.append((row, forecast.mean, (_ALIKE * forecast.deviation) ** 2))
        learn = len(seen) > _LEARN_AGAIN * self._learned_at
        self._learned_at = len(seen) if learn else self._learned_at
        rows, values, noise = zip(*seen, strict=True)
        self._model.fit(np.stack(rows), np.array(values), np.array(noise), learn=learn)
        self._is_fit = True

    def _known_values(self) -> FloatArray:
        """The objectives other than recall of every candidate, to be maximised (candidates, objectives)."""
        if self._known is None:
            self._known = np.zeros((len(self._all), len(self._signs)))
            for at, objective in enumerate(self._spec.objectives):
                if at != self._recall:
                    shapes = [candidate.shape for candidate in self._all]
                    values = self._shapes.values(objective.metric, shapes, self._rows)
                    self._known[:, at] = objective.sign * values
        return self._known

    def _gains(self) -> FloatArray:
        """The gain of every configuration that was not proposed; 0 for the others."""
        gains = self._gains_up_to(self._most)
        # a trial may jump over the recall at which it is solved: that counts where nothing else is left
        return gains if gains.any() else self._gains_up_to(1.0)

    def _gains_up_to(self, most: float) -> FloatArray:
        self._fit()
        at = np.array([i for i, candidate in enumerate(self._all) if not candidate.asked], dtype=np.int64)
        return self._gains_at(at, *self._model.predict(self._rows[at]), most=most)

    def _gains_of_seeds(self) -> FloatArray:
        """The gain of every finished configuration by one more seed, of which none runs; 0 for the others.

        From n seeds to n + 1, a mean moves by sqrt(1 / (n (n + 1))) times the deviation between seeds.
        """
        finished = [c for c in self._ended if c.over >= c.asked and c.left(self._spec.seeds)]
        if self._spec.search.seeds == "all" or not finished:
            return np.zeros(len(self._all))
        number = np.array([len(c.finished) for c in finished])
        mean = np.array([fmean(c.finished.values()) for c in finished])
        between = deviation_between([list(c.finished.values()) for c in self._ended], unknown=_SEEDS)
        deviation = between / np.sqrt(number * (number + 1))
        return self._gains_at(np.array([self._place[id(c)] for c in finished]), mean, deviation, most=1.0)

    def _gains_at(
        self, at: npt.NDArray[np.int64], mean: FloatArray, deviation: FloatArray, *, most: float
    ) -> FloatArray:
        """The expected gains of candidates whose recall is to be such, beside what runs; 0 for the others."""
        gains = np.zeros(len(self._all))
        gains[at] = expected_gains(
            self._front(running=True),
            self._reference,
            uncertain=self._recall,
            mean=mean,
            deviation=deviation,
            known=self._known_values()[at],
            most=most,
        )
        return gains

    def _front(self, *, running: bool = False) -> FloatArray:
        """Finished configurations (n, objectives), to be maximised; with `running` those too, as they are expected."""
        recalls = self._recalls()
        if running and self._live:
            at = [self._place[id(candidate)] for candidate in self._live.values()]
            mean, _ = self._model.predict(self._rows[at])
            expected = {place: min(1.0, float(value)) for place, value in zip(at, mean, strict=True)}
            recalls = expected | recalls
        points = self._known_values()[list(recalls)].reshape(-1, len(self._signs)).copy()
        points[:, self._recall] = list(recalls.values())
        return points

    def _recalls(self) -> dict[int, float]:
        """The mean recall of each finished configuration, by its place."""
        if self._finished is None:
            self._finished = {
                self._place[id(candidate)]: fmean(candidate.finished.values())
                for candidate in self._ended
                if len(candidate.finished) >= len(self._spec.first_seeds)
            }
        return self._finished
