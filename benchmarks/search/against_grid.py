"""What other searches found of a grid's front, and after how many training steps: sweeps that were really run."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from recallfront.benchmarks.search.simulate import NOISE
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder
from recallfront.platform.pareto import hypervolume, non_dominated
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Found:
    """How far a sweep came on a grid's front."""

    steps: int  # of training, of all trials
    share: float  # of the grid's hypervolume, in the end
    until_99: int | None  # steps until 99 % of it
    until_all: int | None  # steps until all members are found within noise of recall


def found(grid: SweepRecord, other: SweepRecord) -> Found:
    """Compare a sweep with the grid over the same space; trials count when they end.

    Raises:
        UsageError: the two have other objectives, or no trial of the grid has finished.
    """
    objectives = SweepSpec.model_validate(dict(grid.spec)).objectives
    if objectives != SweepSpec.model_validate(dict(other.spec)).objectives:
        raise UsageError(f"{grid.name} and {other.name} have other objectives: they are not comparable")
    signs = np.array([o.sign for o in objectives])
    reference = signs * np.array([o.reference for o in objectives])
    noise = np.array([NOISE if o.is_on_both_splits else 0.0 for o in objectives])

    def values(metrics: dict[str, float]) -> list[float]:
        return [o.sign * metrics[o.reading] for o in objectives]

    all_ = np.array([values(trial.metrics) for trial in grid.with_status(Status.FINISHED)])
    if not len(all_):
        raise UsageError(f"{grid.name}: no trial has finished")
    members = all_[non_dominated(all_)]
    members = members[(members > reference).all(axis=1)]
    whole = hypervolume(all_.tolist(), reference.tolist())
    steps, share = 0, 0.0
    until_99: int | None = None
    until_all: int | None = None
    done: list[list[float]] = []
    ended = other.with_status(Status.FINISHED, Status.PRUNED)
    for trial in sorted(ended, key=lambda trial: trial.end_time or 0.0):
        steps += trial.steps
        if trial.status is Status.PRUNED:
            continue
        done.append(values(trial.metrics))
        share = hypervolume(done, reference.tolist()) / whole
        if until_99 is None and share >= 0.99:
            until_99 = steps
        if until_all is None and all((np.array(done) >= m - noise).all(axis=1).any() for m in members):
            until_all = steps
    return Found(steps, share, until_99, until_all)


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
