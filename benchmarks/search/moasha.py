"""Syne Tune's MOASHA as a rule of the simulated sweeps, where Syne Tune is installed."""

from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.rules import Rule, Ruling
from recallfront.sweeps.spec import SweepSpec


def is_installed() -> bool:
    """Whether there is a Syne Tune to compare with; it is no dependency, and nothing but this row needs it."""
    return find_spec("syne_tune") is not None


class Moasha(Rule):
    """Multi-objective asynchronous successive halving (arXiv:2106.12639) as Syne Tune has it: non-dominated sorting,
    one bracket. It only stops trials; who proposes them is another's affair.
    """

    def __init__(self, spec: SweepSpec, *, first_rung_steps: int, reduction: int) -> None:
        status = import_module("syne_tune.backend.trial_status")
        moasha = import_module("syne_tune.optimizer.schedulers.multiobjective.moasha")
        self._readings = [objective.reading for objective in spec.objectives]
        self._trial, self._trials = status.Trial, dict[str, Any]()
        self._last_step = spec.training.steps
        self._scheduler = moasha.MOASHA(
            {},
            # all are turned so that less is better
            metrics=self._readings,
            time_attr="step",
            max_t=spec.training.steps,
            grace_period=first_rung_steps,
            reduction_factor=reduction,
        )
        self._signs = [objective.sign for objective in spec.objectives]

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        trial = self._known(plan)
        if step == 0:
            return None
        decision = self._scheduler.on_trial_result(trial, self._result(step, figures))
        return Ruling(Status.PRUNED, "MOASHA stopped it") if decision == "STOP" else None

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        trial = self._known(plan)
        if outcome.status is Status.FINISHED:
            self._scheduler.on_trial_complete(trial, self._result(self._last_step, outcome.figures))
        else:
            self._scheduler.on_trial_remove(trial)

    def _known(self, plan: PlannedTrial) -> Any:
        key = plan.config.key
        if key not in self._trials:
            self._trials[key] = self._trial(len(self._trials), {}, datetime.fromtimestamp(0))
            self._scheduler.on_trial_add(self._trials[key])
        return self._trials[key]

    def _result(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        turned = {name: -sign * figures[name] for name, sign in zip(self._readings, self._signs, strict=True)}
        return {"step": step} | turned
