"""What other searches found of a grid's front, and after how many training steps: sweeps that were really run."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from recallfront.benchmarks.search.simulate import NOISE
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder
from recallfront.platform.pareto import FloatArray, hypervolume, non_dominated
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.objectives import has_all
from recallfront.sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Found:
    """How far a sweep came on a grid's front."""

    steps: int  # of training, of all trials
    share: float  # of the grid's hypervolume, in the end
    until_99: int | None  # steps until 99 % of it
    until_all: int | None  # steps until all members are found within noise of recall


def found(grid: SweepRecord, other: SweepRecord) -> Found:
    """Compare a sweep with the grid over the same space; steps count when their trial ends, whatever came of it.

    Raises:
        UsageError: the two have other objectives, or no configuration of the grid has finished.
    """
    objectives = SweepSpec.model_validate(dict(grid.spec)).objectives
    if objectives != SweepSpec.model_validate(dict(other.spec)).objectives:
        raise UsageError(f"{grid.name} and {other.name} have other objectives: they are not comparable")
    signs = np.array([o.sign for o in objectives])
    reference = signs * np.array([o.reference for o in objectives])
    noise = np.array([NOISE if o.is_on_both_splits else 0.0 for o in objectives])

    all_ = _Configurations(grid)
    for trial in grid.trials:
        all_.put(trial)
    if not len(all_.means):
        raise UsageError(f"{grid.name}: no configuration has finished with all of its seeds")
    members = all_.means[non_dominated(all_.means)]
    members = members[(members > reference).all(axis=1)]
    whole = hypervolume(all_.means.tolist(), reference.tolist())
    steps, share = 0, 0.0
    until_99: int | None = None
    until_all: int | None = None
    own = _Configurations(other)
    for trial in sorted(other.trials, key=_end):
        steps += trial.steps
        if not own.put(trial):
            continue
        share = hypervolume(own.means.tolist(), reference.tolist()) / whole
        has_members = all((own.means >= member - noise).all(axis=1).any() for member in members)
        # what is found with one seed can be lost again with the next
        until_99 = (until_99 or steps) if share >= 0.99 else None
        until_all = (until_all or steps) if has_members else None
    return Found(steps, share, until_99, until_all)


def _end(trial: TrialRecord) -> float:
    """When a trial ended; one that runs comes last."""
    return math.inf if trial.end_time is None else trial.end_time


class _Configurations:
    """The configurations of a sweep that have finished with as many seeds as each runs with, by the means of these."""

    def __init__(self, record: SweepRecord) -> None:
        spec = SweepSpec.model_validate(dict(record.spec))
        self._objectives, self._needed = spec.objectives, len(spec.first_seeds)
        # configuration -> values of its seeds, to be maximised
        self._seeds: dict[str, list[list[float]]] = {}

    def put(self, trial: TrialRecord) -> bool:
        """Take a trial; tells whether its configuration has finished by it."""
        if trial.status is not Status.FINISHED or not has_all(self._objectives, trial.metrics):
            return False
        seeds = self._seeds.setdefault(trial.configuration, [])
        seeds.append([o.sign * trial.metrics[o.reading] for o in self._objectives])
        return len(seeds) >= self._needed

    @property
    def means(self) -> FloatArray:
        """Objectives to be maximised (configurations, objectives)."""
        means = [np.mean(seeds, axis=0) for seeds in self._seeds.values() if len(seeds) >= self._needed]
        return np.array(means).reshape(-1, len(self._objectives))


def table(grid: SweepRecord, others: Sequence[SweepRecord]) -> Table:
    """A row for each of the other sweeps."""
    whole = sum(trial.steps for trial in grid.trials)
    shown = Table(title=f"{grid.name}: {whole:,} training steps", title_justify="left", box=None)
    for column in (
        "sweep",
        "99 % of the hypervolume",
        "all members",
        "steps in the end",
        "hypervolume in the end",
    ):
        shown.add_column(column, justify="left" if column == "sweep" else "right")
    for other in others:
        own = found(grid, other)
        until = ["never" if n is None else f"{n:,} ({n / whole:.3f})" for n in (own.until_99, own.until_all)]
        shown.add_row(other.name, *until, f"{own.steps:,} ({own.steps / whole:.3f})", f"{own.share:.4f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", help="name, key or run of a finished grid")
    parser.add_argument("others", nargs="+", help="the same of other searches over its space")
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    try:
        uri = find_store(None, home_folder(arguments.home))
        grid, *others = (read_sweep(uri, name).current() for name in (arguments.grid, *arguments.others))
        Console().print(table(grid, others))
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
