"""A sweep in no time: the project's own search and stopping rules, driven by simulated workers on recorded curves."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from random import Random
from statistics import fmean

import numpy as np

from recallfront.benchmarks.search.curves import RecordedCurves
from recallfront.platform.pareto import hypervolume, non_dominated
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Search
from recallfront.platform.search.rules import SECONDS_PER_STEP, Rules
from recallfront.platform.sweep.budget import Budget
from recallfront.sweeps.spec import SweepSpec

NOISE = 0.02  # of recall: what a validation split of 1,000 questions leaves open
_JITTER = 0.3  # by how much the speed of one trial may differ from that of another


@dataclass(frozen=True)
class Point:
    """Where a sweep stands after one more trial has finished."""

    steps: int  # of training, of all trials so far
    seconds: float  # that these steps took
    hypervolume: float  # share of the grid's
    members: float  # share of the grid's front that has been found within noise


@dataclass(frozen=True)
class Simulated:
    """One sweep on recorded curves."""

    points: tuple[Point, ...]
    grid_steps: int
    grid_seconds: float
    lost: tuple[int, ...]  # numbers of true members that were trained, and stopped before their end
    ended: str | None = None  # what of its budget was used up
    # of those, the ones that bloom late and in whose place nothing as good has finished
    lost_late: tuple[int, ...] = ()

    def share_until(self, reached: Callable[[Point], bool]) -> float | None:
        """The share of the grid's steps until a point is reached for good; None if none is."""
        point = self._first(reached)
        return None if point is None else point.steps / self.grid_steps

    def seconds_until(self, reached: Callable[[Point], bool]) -> float | None:
        """The same of the grid's seconds."""
        point = self._first(reached)
        return None if point is None else point.seconds / self.grid_seconds

    def _first(self, reached: Callable[[Point], bool]) -> Point | None:
        # what is found with one seed can be lost again with the next
        return next(reversed(list(takewhile(reached, reversed(self.points)))), None)

    def at(self, share: float) -> Point:
        """Where the sweep stands after a share of the grid's steps."""
        before = [point for point in self.points if point.steps <= share * self.grid_steps]
        return before[-1] if before else Point(0, 0.0, 0.0, 0.0)


class Truth:
    """What a grid with all seeds of a specification finds; a configuration is judged by the mean of its seeds."""

    def __init__(self, spec: SweepSpec, curves: RecordedCurves, *, tells_seconds: bool = False) -> None:
        """
        Args:
            tells_seconds: whether a trial reports what its steps take, as a real one does.

        Raises:
            ValueError: a configuration was not recorded with one of the seeds.
        """
        own = curves.of(spec.seeds)
        self.recall = dict(zip(spec.seeds, own.recall, strict=True))
        self.loss = dict(zip(spec.seeds, own.loss, strict=True))
        self.decode, self.state = own.decode_tokens_per_second, own.state_bytes
        self.seconds = own.seconds_per_step
        self._tells_seconds = tells_seconds
        self.every = spec.training.evaluate_every
        self.steps = spec.training.steps
        self.number = {spec.trial(b, k, 0).configuration_key: at for at, (b, k) in enumerate(spec.grid())}
        mean = own.recall.mean(axis=0)
        self.final = np.stack([mean[:, -1], self.decode], axis=1)
        self.front = np.flatnonzero(non_dominated(self.final))
        self.hypervolume = hypervolume(self.final, [0.0, 0.0])
        # members of the front that have less than a quarter of their recall after a fifth of their steps
        early = mean[:, : mean.shape[1] // 5].max(axis=1)
        self.late = [at for at in self.front.tolist() if early[at] < mean[at, -1] / 4]

    @property
    def grid_steps(self) -> int:
        """Steps of a whole grid with all seeds."""
        return self.steps * len(self.number) * len(self.recall)

    @property
    def grid_seconds(self) -> float:
        """Seconds that they take."""
        return self.steps * float(self.seconds.sum()) * len(self.recall)

    def figures(self, at: int, seed: int, step: int) -> dict[str, float]:
        """What configuration `at` reports after `step` steps with a seed."""
        found = {"decode_tokens_per_second": float(self.decode[at]), "state_bytes": float(self.state[at])}
        if step == 0:
            return found
        if self._tells_seconds:
            found[SECONDS_PER_STEP] = float(self.seconds[at])
        index = step // self.every - 1
        return found | {
            "validation_recall": float(self.recall[seed][at, index]),
            "validation_loss": float(self.loss[seed][at, index]),
        }

    def worth(self, finished: Mapping[int, Mapping[int, float]]) -> list[tuple[float, float]]:
        """Recall and throughput of the front that a sweep shows, each member's recall being that of all seeds.

        The sweep chooses by the seeds that have finished (configuration -> seed -> recall): a lucky one is shown in
        place of a better one.
        """
        at = list(finished)
        shown = np.array([[fmean(finished[one].values()), self.decode[one]] for one in at]).reshape(-1, 2)
        members = [at[place] for place in np.flatnonzero(non_dominated(shown))]
        return [(self._recall_of(one, finished[one]), float(self.decode[one])) for one in members]

    def _recall_of(self, at: int, finished: Mapping[int, float]) -> float:
        """The mean over all seeds; those that have not finished would come to the end of their curves."""
        return fmean(finished.get(seed, float(own[at, -1])) for seed, own in self.recall.items())

    def members_found(self, shown: Sequence[tuple[float, float]]) -> float:
        """The share of true members for which something at least as fast and as good within noise is shown."""
        return float(np.mean([self.is_found(at, shown) for at in self.front.tolist()]))

    def is_found(self, at: int, shown: Sequence[tuple[float, float]]) -> bool:
        """Whether something at least as fast as configuration `at`, and as good within noise, is shown."""
        recall, speed = self.final[at]
        return any(r >= recall - NOISE and d >= speed * (1 - 1e-9) for r, d in shown)


def simulate(
    spec: SweepSpec,
    truth: Truth,
    search: Search,
    rules: Rules,
    *,
    workers: int = 4,
    seed: int = 0,
) -> Simulated:
    """Run a sweep: `workers` trials at once, each at a speed of its own; reports come in the order of time.

    It ends when the search has nothing to propose, when a part of its budget is used up, or when all of the grid's
    front has been found.
    """
    random = Random(seed)
    planner = Planner(spec, search, {})
    budget = Budget(spec, SweepRecord("", spec.key, spec.name, {}, ()), expects=planner.expects)
    order = count()
    queue: list[tuple[float, int, PlannedTrial, int, float]] = []
    points: list[Point] = []
    finished = _Finished(truth, len(spec.first_seeds))
    lost: set[int] = set()
    steps, seconds, now = 0, 0.0, 0.0
    reached: dict[str, int] = {}  # trial -> the last step that it was trained to
    target = spec.training.stop_at.recall if spec.training.stop_at else None
    ended: str | None = None

    def start(*, thorough: bool = False) -> None:
        nonlocal ended
        # as in a driver, which starts nothing more even if those that still run add something
        ended = ended or budget.used_up(0.0)
        if ended is None:
            planner.again(rules.promote(thorough=thorough))
        plan = planner.next() if ended is None else None
        while isinstance(plan, Impossible):
            plan = planner.next()
        if plan is not None:
            pace = 1 + _JITTER * random.random()
            heapq.heappush(queue, (now, next(order), plan, reached.get(plan.config.key, 0), pace))

    for _ in range(workers):
        start()
    while queue:
        now, _, plan, step, pace = heapq.heappop(queue)
        at = truth.number[plan.config.configuration_key]
        figures = truth.figures(at, plan.seed, step)
        more = step - reached.get(plan.config.key, 0)
        steps, seconds = steps + more, seconds + more * float(truth.seconds[at])
        reached[plan.config.key] = step
        budget.steps = steps
        solved = target is not None and figures.get("validation_recall", 0.0) >= target
        if step == truth.steps or solved:
            if finished.put(at, plan.seed, figures["validation_recall"]):
                lost.discard(at)
                points.append(finished.point(steps, seconds))
            outcome = Outcome(Status.FINISHED, figures)
        elif (verdict := rules.judge(plan, step, figures)) is not None:
            if at in truth.front and verdict.status is Status.PRUNED:
                lost.add(at)
            outcome = Outcome(verdict.status, figures)
        else:
            heapq.heappush(queue, (now + pace, next(order), plan, step + truth.every, pace))
            continue
        rules.ended(plan, outcome)
        planner.ended(plan, outcome)
        budget.ended(_record(plan, outcome))
        if points and points[-1].members == 1.0 and points[-1].hypervolume >= 0.995:
            break
        start()
        if not queue:
            start(thorough=True)
    shown = truth.worth(finished.configurations)
    late = tuple(at for at in sorted(lost) if at in truth.late and not truth.is_found(at, shown))
    return Simulated(tuple(points), truth.grid_steps, truth.grid_seconds, tuple(sorted(lost)), ended, late)


class _Finished:
    """The configurations of a simulated sweep that have finished, with so many seeds at least."""

    def __init__(self, truth: Truth, seeds: int) -> None:
        self._truth, self._seeds = truth, seeds
        self._all: dict[int, dict[int, float]] = {}  # configuration -> seed -> recall

    @property
    def configurations(self) -> dict[int, dict[int, float]]:
        return {at: own for at, own in self._all.items() if len(own) >= self._seeds}

    def put(self, at: int, seed: int, recall: float) -> bool:
        """Take a finished trial; tells whether its configuration has finished."""
        own = self._all.setdefault(at, {})
        own[seed] = recall
        return len(own) >= self._seeds

    def point(self, steps: int, seconds: float) -> Point:
        """Where the sweep stands."""
        shown = self._truth.worth(self.configurations)
        share = hypervolume(shown, [0.0, 0.0]) / self._truth.hypervolume
        return Point(steps, seconds, share, self._truth.members_found(shown))


def _record(plan: PlannedTrial, outcome: Outcome) -> TrialRecord:
    """A trial that has ended, as a budget counts it."""
    config = plan.config.model_dump(mode="json")
    return TrialRecord("", plan.config.key, outcome.status, config, dict(outcome.figures))
