"""Early stopping under several objectives: asynchronous successive halving by non-dominated rank (arXiv:2106.12639)."""

from pathlib import Path
from typing import Any

import numpy as np

from recallfront.platform.pareto import contributions, ranks
from recallfront.sweeps.base import seal, unseal
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.spec import EarlyStopping


class Halving:
    """At each rung a configuration goes on if it is among the best 1/reduction of all that have reached that rung.

    Best by non-dominated rank, then by exclusive hypervolume. Throughput is known before training, so partial recall
    is compared together with it. A configuration is judged once per rung, on the mean of its seeds: if each seed were
    judged alone, the luckier one would stay and bias what is kept upwards. The decision falls when the last seed
    reaches the rung; seeds that are ahead train on until then, and stop at their next report if it says so.

    Rungs are kept in a file, so that a resumed sweep compares with what came before.
    """

    def __init__(
        self,
        settings: EarlyStopping,
        objectives: tuple[Objective, ...],
        steps: int,
        path: Path,
        seeds: tuple[int, ...] = (0,),
    ) -> None:
        self._objectives, self._reduction, self._seeds = objectives, settings.reduction, seeds
        self.rungs = []
        rung = settings.first_rung_steps
        while rung < steps:
            self.rungs.append(rung)
            rung *= settings.reduction
        # rung -> configuration -> seed -> values
        self._values: dict[int, dict[str, dict[int, list[float]]]] = {rung: {} for rung in self.rungs}
        self._stopped: set[str] = set()  # configurations
        self._path = path
        self._read()

    def goes_on(self, configuration: str, step: int, figures: dict[str, float], seed: int = 0) -> bool:
        """Whether a trial that has reported `figures` after `step` steps is trained further."""
        if configuration in self._stopped:
            return False
        metrics = [objective.reading for objective in self._objectives]
        if any(metric not in figures for metric in metrics):
            return True
        reached = [r for r in self.rungs if r <= step and seed not in self._values[r].get(configuration, {})]
        if not reached:
            return True
        rung = reached[-1]
        values = [o.sign * figures[o.reading] for o in self._objectives]
        self._append(rung, configuration, seed, values)
        return self._judge(rung, configuration, seed, values)

    def _judge(self, rung: int, configuration: str, seed: int, values: list[float]) -> bool:
        """Take a seed's values at a rung; whether its configuration goes on. Those that miss a seed do not count."""
        reached = self._values[rung]
        reached.setdefault(configuration, {})[seed] = values
        means = {
            key: np.mean(list(own.values()), axis=0)
            for key, own in reached.items()
            if own.keys() >= set(self._seeds)
        }
        if configuration not in means:
            return True
        goes_on = self._place(configuration, means) < -(-len(means) // self._reduction)
        if not goes_on:
            self._stopped.add(configuration)
        return goes_on

    def _place(self, configuration: str, means: dict[str, "np.ndarray[Any, Any]"]) -> int:
        """How many configurations are better than this one."""
        keys, values = list(means), np.array(list(means.values()))
        # The reference lies beyond the worst values, so that the ends of a front, too, contribute.
        low, high = values.min(axis=0), values.max(axis=0)
        gains = contributions(values, low - np.where(high > low, high - low, 1.0))
        order = sorted(zip(ranks(values).tolist(), (-gains).tolist(), keys, strict=True))
        return [key for _, _, key in order].index(configuration)

    def _read(self) -> None:
        lines = self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = unseal(line)
            except ValueError:
                continue  # a driver was killed while it wrote this line, or it was damaged
            if entry["rung"] in self._values:
                self._judge(entry["rung"], entry["configuration"], entry["seed"], entry["values"])

    def _append(self, rung: int, configuration: str, seed: int, values: list[float]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"rung": rung, "configuration": configuration, "seed": seed, "values": values}
        with self._path.open("a") as file:
            file.write(seal(entry, indent=None) + "\n")
