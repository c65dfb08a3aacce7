"""What early stopping would have saved on a sweep that has run, and what would have become of its claims.

The project's own rules are driven by simulated workers on the sweep's recorded curves: a trial costs what it took, and
one that is stopped counts for no claim.
"""

import argparse
import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import read_objectives
from recallfront.platform.front.claims import ClaimVerdict, Judgement, judge
from recallfront.platform.home import home_folder
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.tracking.curves import Curve, read_curves
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.spec import SweepSpec

CURVES: Final = ("validation_recall", "validation_loss")
# Shares of the training at which the first rung may be, and by how much each rung is further than the one before.
SETTINGS: Final = ((1 / 4, 2), (1 / 4, 3), (1 / 2, 2))
_DECIDED: Final = (ClaimVerdict.SUPPORTED, ClaimVerdict.CONTRADICTED)
RunCurves = Mapping[str, Mapping[str, Curve]]  # run -> metric -> values by step


@dataclass(frozen=True)
class Replayed:
    """A sweep as it would have gone with early stopping."""

    steps: int  # of training, of all trials
    whole: int  # the same without
    stopped: tuple[str, ...]  # runs of trials that would have been stopped
    verdicts: tuple[Judgement, ...]
    whole_verdicts: tuple[Judgement, ...]

    @property
    def reversed(self) -> tuple[str, ...]:
        """The ids of the claims that are decided otherwise."""
        return tuple(own.claim.id for own, whole in self._decided() if own.verdict is not whole.verdict)

    @property
    def lost(self) -> tuple[str, ...]:
        """The ids of the claims that were decided and are no longer, as what they rest on was stopped."""
        kept = {own.claim.id for own, _ in self._decided()}
        return tuple(
            j.claim.id for j in self.whole_verdicts if j.verdict in _DECIDED and j.claim.id not in kept
        )

    def _decided(self) -> list[tuple[Judgement, Judgement]]:
        pairs = zip(self.verdicts, self.whole_verdicts, strict=True)
        return [(own, whole) for own, whole in pairs if own.verdict in _DECIDED and whole.verdict in _DECIDED]


def replay(
    record: SweepRecord, curves: RunCurves, stopping: Mapping[str, Any] | None, *, workers: int = 2
) -> Replayed:
    """Run a finished sweep again on its curves, with these settings of `early_stopping`.

    Args:
        record: the sweep; trials that have not finished are left out.
        curves: those that `curves_of` names of its runs, at each of their evaluations.
        workers: trials that run at once.
    """
    spec = SweepSpec.model_validate(dict(record.spec) | {"early_stopping": stopping})
    known = {trial.trial_key: trial for trial in record.with_status(Status.FINISHED)}
    search = make_search(spec)
    planner, rules = Planner(spec, search, {}), make_rules(spec, search)
    order, steps = count(), 0
    stopped: set[str] = set()
    reached: dict[str, int] = {}  # run -> the last step that it was trained to
    queue: list[tuple[float, int, PlannedTrial, list[int]]] = []

    def start(now: float, *, thorough: bool = False) -> None:
        planner.again(rules.promote(thorough=thorough))
        while (plan := planner.next()) is not None:
            if not isinstance(plan, Impossible) and plan.config.key in known:
                run = known[plan.config.key].run_id
                at = [0, *(step for step, _ in curves[run][CURVES[0]])]
                left = [step for step in at if step >= reached.get(run, 0)]
                heapq.heappush(queue, (now, next(order), plan, left))
                return

    for _ in range(workers):
        start(0.0)
    while queue:
        now, _, plan, (step, *left) = heapq.heappop(queue)
        trial = known[plan.config.key]
        figures = _figures(spec, trial, curves[trial.run_id], step)
        ruling = rules.judge(plan, step, figures) if left else None
        if left and ruling is None:
            later = now + (left[0] - step) * _seconds_a_step(trial)
            heapq.heappush(queue, (later, next(order), plan, left))
            continue
        steps += step - reached.get(trial.run_id, 0)
        reached[trial.run_id] = step
        outcome = Outcome(Status.FINISHED if ruling is None else ruling.status, figures)
        (stopped.discard if ruling is None else stopped.add)(trial.run_id)
        rules.ended(plan, outcome)
        planner.ended(plan, outcome)
        start(now)
        if not queue:
            start(now, thorough=True)
    whole = sum(trial.steps for trial in known.values())
    return Replayed(steps, whole, tuple(sorted(stopped)), judge(_without(record, stopped)), judge(record))


def replay_table(record: SweepRecord, curves: RunCurves) -> Table:
    """A row for each of `SETTINGS`."""
    title = f"{record.name}: early stopping on its recorded curves"
    table = Table(title=title, title_justify="left", box=None)
    for column in (
        "first rung",
        "reduction",
        "training steps",
        "trials stopped",
        "verdicts lost",
        "reversed",
    ):
        table.add_column(column, justify="right")
    longest = SweepSpec.model_validate(record.spec).training.steps
    for share, reduction in SETTINGS:
        found = replay(record, curves, {"first_rung_steps": int(longest * share), "reduction": reduction})
        table.add_row(
            str(int(longest * share)),
            str(reduction),
            f"{found.steps / found.whole:.1%} of {found.whole:,}",
            f"{len(found.stopped)} of {len(record.with_status(Status.FINISHED))}",
            str(len(found.lost)),
            ", ".join(found.reversed) or "none",
        )
    return table


def curves_of(record: SweepRecord) -> tuple[str, ...]:
    """The metrics of a sweep whose curves its rules read."""
    recalls = (o.reading for o in read_objectives(record.spec) if o.is_on_both_splits)
    return tuple(dict.fromkeys((*CURVES, *recalls)))


def _figures(spec: SweepSpec, trial: TrialRecord, curves: Mapping[str, Curve], step: int) -> dict[str, float]:
    """What a trial had reported after a step: what is measured before training, and then its last evaluation."""
    measured = [o.metric for o in spec.objectives if not o.is_on_both_splits]
    found = {name: trial.metrics[name] for name in measured}
    return found | {name: dict(curve)[step] for name, curve in curves.items() if step}


def _seconds_a_step(trial: TrialRecord) -> float:
    return trial.metrics.get("train_seconds", 1.0) / max(trial.steps, 1)


def _without(record: SweepRecord, stopped: Collection[str]) -> SweepRecord:
    trials = tuple(
        replace(trial, status=Status.PRUNED) if trial.run_id in stopped else trial for trial in record.trials
    )
    return replace(record, trials=trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sweep", help="name, key or run of a finished sweep")
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    try:
        uri = find_store(None, home_folder(arguments.home))
        record = read_sweep(uri, arguments.sweep).current()
        runs = [trial.run_id for trial in record.with_status(Status.FINISHED)]
        if not runs:
            parser.error(f"sweep {record.name}: no trial has finished")
        Console().print(replay_table(record, read_curves(uri, runs, curves_of(record))))
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
