"""A sweep in no time: the project's own search and stopping rules, driven by simulated workers on recorded curves."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

import numpy as np

from recallfront.benchmarks.search.curves import RecordedCurves
from recallfront.platform.pareto import hypervolume, non_dominated
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Search
from recallfront.platform.search.rules import Rules
from recallfront.platform.sweep.budget import Budget
from recallfront.sweeps.spec import SweepSpec

NOISE = 0.02  # of recall: what a validation split of 1,000 questions leaves open
_JITTER = 0.3  # by how much the speed of one trial may differ from that of another


@dataclass(frozen=True)
class Point:
    """Where a sweep stands after one more trial has finished."""

    steps: int  # of training, of all trials so far
    hypervolume: float  # share of the grid's
    members: float  # share of the grid's front that has been found within noise


@dataclass(frozen=True)
class Simulated:
    """One sweep on recorded curves."""

    points: tuple[Point, ...]
    grid_steps: int
    lost: tuple[int, ...]  # numbers of true members that were trained, and stopped before their end
    ended: str | None = None  # what of its budget was used up
    # of those, the ones that bloom late and in whose place nothing as good has finished
    lost_late: tuple[int, ...] = ()

    def share_until(self, reached: Callable[[Point], bool]) -> float | None:
        """The share of the grid's steps until a point is reached; None if none is."""
        return next((point.steps / self.grid_steps for point in self.points if reached(point)), None)

    def at(self, share: float) -> Point:
        """Where the sweep stands after a share of the grid's steps."""
        before = [point for point in self.points if point.steps <= share * self.grid_steps]
        return before[-1] if before else Point(0, 0.0, 0.0)


class Truth:
    """What a grid finds on one seed's curves."""

    def __init__(self, spec: SweepSpec, curves: RecordedCurves, seed: int) -> None:
        self.recall, self.loss = curves.recall[seed], curves.loss[seed]
        self.decode, self.state = curves.decode_tokens_per_second, curves.state_bytes
        self.every = spec.training.evaluate_every
        self.steps = spec.training.steps
        self.number = {spec.trial(b, k, 0).configuration_key: at for at, (b, k) in enumerate(spec.grid())}
        self.final = np.stack([self.recall[:, -1], self.decode], axis=1)
        self.front = np.flatnonzero(non_dominated(self.final))
        self.hypervolume = hypervolume(self.final, [0.0, 0.0])
        # members of the front that have less than a quarter of their recall after a fifth of their steps
        early = self.recall[:, : self.recall.shape[1] // 5].max(axis=1)
        self.late = [at for at in self.front.tolist() if early[at] < self.recall[at, -1] / 4]

    def figures(self, at: int, step: int) -> dict[str, float]:
        """What configuration `at` reports after `step` steps."""
        found = {"decode_tokens_per_second": float(self.decode[at]), "state_bytes": float(self.state[at])}
        if step == 0:
            return found
        index = step // self.every - 1
        return found | {
            "validation_recall": float(self.recall[at, index]),
            "validation_loss": float(self.loss[at, index]),
        }

    def members_found(self, finished: Sequence[tuple[float, float]]) -> float:
        """The share of true members for which something at least as fast and as good within noise has finished."""
        return float(np.mean([self.is_found(at, finished) for at in self.front.tolist()]))

    def is_found(self, at: int, finished: Sequence[tuple[float, float]]) -> bool:
        """Whether something at least as fast as configuration `at`, and as good within noise, has finished."""
        recall, speed = self.final[at]
        return any(r >= recall - NOISE and d >= speed * (1 - 1e-9) for r, d in finished)


def simulate(
    spec: SweepSpec,
    truth: Truth,
    search: Search,
    rules: Rules,
    *,
    workers: int = 4,
    seed: int = 0,
) -> Simulated:
    """Run a sweep: `workers` trials at once, each at a speed of its own, reports in the order in which they come.

    It ends when the search has nothing to propose, when a part of its budget is used up, or when all of the grid's
    front has been found.
    """
    random = Random(seed)
    planner = Planner(spec, search, {})
    budget = Budget(spec, SweepRecord("", spec.key, spec.name, {}, ()), expects=planner.expects)
    order = count()
    queue: list[tuple[float, int, PlannedTrial, int, float]] = []
    points: list[Point] = []
    finished: list[tuple[float, float]] = []
    lost: set[int] = set()
    steps, now = 0, 0.0
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
        figures = truth.figures(at, step)
        steps += step - reached.get(plan.config.key, 0)
        reached[plan.config.key] = step
        budget.steps = steps
        solved = target is not None and figures.get("validation_recall", 0.0) >= target
        if step == truth.steps or solved:
            lost.discard(at)
            finished.append((figures["validation_recall"], figures["decode_tokens_per_second"]))
            share = hypervolume(finished, [0.0, 0.0]) / truth.hypervolume
            points.append(Point(steps, share, truth.members_found(finished)))
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
    grid_steps = truth.steps * len(truth.number)
    late = tuple(at for at in sorted(lost) if at in truth.late and not truth.is_found(at, finished))
    return Simulated(tuple(points), grid_steps, tuple(sorted(lost)), ended, late)


def _record(plan: PlannedTrial, outcome: Outcome) -> TrialRecord:
    """A trial that has ended, as a budget counts it."""
    config = plan.config.model_dump(mode="json")
    return TrialRecord("", plan.config.key, outcome.status, config, dict(outcome.figures))
