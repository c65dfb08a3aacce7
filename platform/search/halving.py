"""Early stopping under several objectives: asynchronous successive halving by non-dominated rank (arXiv:2106.12639)."""

import json
from pathlib import Path

import numpy as np

from recallfront.platform.pareto import contributions, ranks
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.spec import EarlyStopping


class Halving:
    """At each rung a trial continues if it is among the best 1/reduction of all trials that have reached that rung.

    Best by non-dominated rank, then by exclusive hypervolume. Throughput is known before training, so partial recall
    is compared together with it. Rungs are kept in a file, so that a resumed sweep compares with what came before.
    """

    def __init__(
        self, settings: EarlyStopping, objectives: tuple[Objective, ...], steps: int, path: Path
    ) -> None:
        self._objectives, self._reduction = objectives, settings.reduction
        self.rungs = []
        rung = settings.first_rung_steps
        while rung < steps:
            self.rungs.append(rung)
            rung *= settings.reduction
        self._values: dict[int, dict[str, list[float]]] = {rung: {} for rung in self.rungs}
        self._path = path
        self._read()

    def goes_on(self, trial_key: str, step: int, figures: dict[str, float]) -> bool:
        """Whether a trial that has reported `figures` after `step` steps continues."""
        metrics = [objective.reading for objective in self._objectives]
        if any(metric not in figures for metric in metrics):
            return True
        reached = [r for r in self.rungs if r <= step and trial_key not in self._values[r]]
        if not reached:
            return True
        rung = reached[-1]
        values = [o.sign * figures[o.reading] for o in self._objectives]
        self._values[rung][trial_key] = values
        self._append(rung, trial_key, values)
        return self._place(rung, trial_key) < -(-len(self._values[rung]) // self._reduction)

    def _place(self, rung: int, trial_key: str) -> int:
        """How many trials of the rung are better than this one."""
        keys = list(self._values[rung])
        values = np.array([self._values[rung][key] for key in keys])
        # The reference lies beyond the worst values, so that the ends of a front, too, contribute.
        low, high = values.min(axis=0), values.max(axis=0)
        gains = contributions(values, low - np.where(high > low, high - low, 1.0))
        order = sorted(zip(ranks(values).tolist(), (-gains).tolist(), keys, strict=True))
        return [key for _, _, key in order].index(trial_key)

    def _read(self) -> None:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                rung, key, values = json.loads(line)
            except ValueError:
                continue  # a driver was killed while it wrote this line
            if rung in self._values:
                self._values[rung][key] = values

    def _append(self, rung: int, key: str, values: list[float]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps([rung, key, values]) + "\n")
