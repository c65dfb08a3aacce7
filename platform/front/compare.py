"""Two sweeps side by side: which configurations are new, lost or moved, and what became of the hypervolume."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recallfront.platform import pareto
from recallfront.platform.errors import UsageError, printable
from recallfront.platform.front.candidates import Candidate, by_configuration
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.intervals import bias_corrected
from recallfront.platform.metrics import SPREAD, show, title_of_objective
from recallfront.platform.results.labels import architecture_of, label, varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.tracking.records import read_record
from recallfront.sweeps.objectives import Objective

Place = Literal["new", "lost", "both", "neither"]
Move = Literal["within noise", "better", "worse", "traded", "one seed", ""]
_DRAWS = 1000  # of every value within its error, for the interval of the hypervolume
_FEW_DRAWS = 200  # from three objectives on, where a hypervolume takes a hundred times as long
_SEED = 0


@dataclass(frozen=True)
class Compared:
    """One configuration of either sweep, or of both."""

    label: str
    before: Candidate | None  # in the first sweep
    after: Candidate | None  # in the second
    place: Place  # on the front of the second alone, of the first alone, of both, of neither
    # empty if one of the sweeps lacks it; one seed does not tell recall's noise, and so not the move
    move: Move


@dataclass(frozen=True)
class SweepComparison:
    """What a second sweep found, against a first."""

    before: Front
    after: Front
    rows: tuple[Compared, ...] = field(repr=False)  # new and lost ones first
    hypervolumes: tuple[float, float]  # both against the first sweep's reference
    # of the second less the first, as 95 of 100 draws have it; none where the errors are not known
    interval: tuple[float, float] | None
    unsure: str  # why there is no interval; empty if there is one
    # of the specifications: key, in the first, in the second
    differences: tuple[tuple[str, str, str], ...] = field(repr=False)

    @property
    def difference(self) -> float:
        """The second sweep's hypervolume less the first's."""
        return self.hypervolumes[1] - self.hypervolumes[0]

    @property
    def change(self) -> float:
        """The same as a part of the first's; infinite if that is 0."""
        if self.hypervolumes[0]:
            return self.difference / self.hypervolumes[0]
        return math.inf if self.difference else 0.0

    def is_worse(self, by: float) -> bool:
        """Whether the second sweep's hypervolume is lower by more than this part of the first's.

        The hypervolumes count as measured: a change within the interval, or one without an interval, is one too.
        """
        return self.change < -by

    @cached_property
    def told(self) -> str:
        """The outcome in one sentence."""
        before, after = (show("hypervolume", volume) for volume in self.hypervolumes)
        sure = f"no interval: {self.unsure}"
        if self.interval:
            low, high = self.interval
            sure = f"95 % interval {low:+.4g} to {high:+.4g}"
        counts = {place: sum(row.place == place for row in self.rows) for place in ("both", "new", "lost")}
        change = f"{100 * self.change:+.1f} %" if math.isfinite(self.change) else "from nothing"
        return (
            f"hypervolume {before} -> {after} ({change}; difference {self.difference:+.4g}, {sure}); "
            f"of the front {counts['both']} kept, {counts['new']} new, {counts['lost']} lost"
        )

    def as_csv(self) -> str:
        """One line a configuration."""
        names = [objective.reading for objective in self.before.objectives]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        of_each = [f"{name}{part}_{which}" for which in ("a", "b") for name in names for part in ("", SPREAD)]
        writer.writerow(["place", "move", "configuration", *of_each])
        for row in self.rows:
            cells = [
                _cell(c, name, part) for c in (row.before, row.after) for name in names for part in (0, 1)
            ]
            writer.writerow([row.place, row.move, row.label, *cells])
        return text.getvalue()

    def to_json(self) -> str:
        """Everything, as an indented JSON document."""
        document: dict[str, Any] = {
            "before": {"sweep": self.before.sweep, "sweep_key": self.before.sweep_key},
            "after": {"sweep": self.after.sweep, "sweep_key": self.after.sweep_key},
            "hypervolumes": self.hypervolumes,
            "difference": self.difference,
            "interval": self.interval,
            "unsure": self.unsure,
            "configurations": [asdict(row) for row in self.rows],
            "differences": [dict(zip(("key", "a", "b"), row, strict=True)) for row in self.differences],
        }
        return json.dumps(document, indent=2, allow_nan=False)


def compare(
    before: str | SweepRecord,
    after: str | SweepRecord,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> SweepComparison:
    """Compare a sweep with an earlier one.

    Configurations are the same if their settings are, but for settings that are fixed in both sweeps and differ
    between them, such as a sweep's number of training steps. A value has moved within noise if its spreads in the
    two sweeps overlap. A configuration with one seed in either sweep has no spread of recall: its move is unknown.

    Args:
        before: the first sweep: its name, the id of its run, or its record.
        after: the second.
        home: the folder of all outputs; only read if `tracking_uri` is not given.
        tracking_uri: the MLflow store that holds the sweeps.

    Raises:
        UsageError: there is no such sweep, the store does not answer, or their objectives differ.
    """
    records = [read_record(s, home=home, tracking_uri=tracking_uri).current() for s in (before, after)]
    fronts = [build_front(record) for record in records]
    _require_same_objectives(*fronts)
    objectives, reference = fronts[0].objectives, _reference(fronts[0])
    volumes = [pareto.hypervolume(front.values(front.candidates), reference) for front in fronts]
    interval, unsure = _interval(fronts, reference, volumes[1] - volumes[0])
    return SweepComparison(
        before=fronts[0],
        after=fronts[1],
        rows=_rows(records, fronts, objectives),
        hypervolumes=(volumes[0], volumes[1]),
        interval=interval,
        unsure=unsure,
        differences=_differences(records[0].spec, records[1].spec),
    )


def _require_same_objectives(before: Front, after: Front) -> None:
    told = [", ".join(f"{o.metric} ({o.direction})" for o in front.objectives) for front in (before, after)]
    if told[0] != told[1]:
        raise UsageError(
            f"sweeps {before.sweep!r} and {after.sweep!r} have other objectives: {told[0]} and {told[1]}"
        )


def _rows(
    records: Sequence[SweepRecord], fronts: Sequence[Front], objectives: Sequence[Objective]
) -> tuple[Compared, ...]:
    ignored = _fixed_otherwise(records)
    varying = [name for name in varying_knobs(records[0].trials + records[1].trials) if name not in ignored]
    found: dict[str, list[tuple[Candidate, TrialRecord] | None]] = {}
    for side, (record, front) in enumerate(zip(records, fronts, strict=True)):
        candidates = {run: c for c in front.candidates for run in c.run_ids}
        for trials in by_configuration(record.trials).values():
            trial = next((t for t in trials if t.run_id in candidates), None)
            if trial is not None:
                pair = found.setdefault(_settings(trial, ignored), [None, None])
                pair[side] = (candidates[trial.run_id], trial)
    rows = []
    for pair in found.values():
        before, after = (one and one[0] for one in pair)
        _, trial = next(one for one in pair if one is not None)
        knobs = trial.knobs
        name = label(architecture_of(trial), {n: knobs[n] for n in varying if n in knobs})
        rows.append(Compared(name, before, after, _place(before, after), _move(before, after, objectives)))
    order = ("new", "lost", "both", "neither")
    return tuple(sorted(rows, key=lambda row: (order.index(row.place), row.label)))


def _place(before: Candidate | None, after: Candidate | None) -> Place:
    on = (before is not None and before.on_front, after is not None and after.on_front)
    places: dict[tuple[bool, bool], Place] = {
        (True, True): "both",
        (False, True): "new",
        (True, False): "lost",
    }
    return places.get(on, "neither")


def _move(before: Candidate | None, after: Candidate | None, objectives: Sequence[Objective]) -> Move:
    if before is None or after is None:
        return ""
    if any(_without_error(c, o) for c in (before, after) for o in objectives):
        return "one seed"
    signs = set()
    for o in objectives:
        moved = o.sign * (after.metrics[o.reading] - before.metrics[o.reading])
        noise = before.spreads.get(o.reading, 0.0) + after.spreads.get(o.reading, 0.0)
        signs.add(0 if abs(moved) <= noise else int(math.copysign(1, moved)))
    if signs == {0}:
        return "within noise"
    return "traded" if {1, -1} <= signs else "better" if 1 in signs else "worse"


def _fixed_otherwise(records: Sequence[SweepRecord]) -> set[str]:
    """Settings with one value in each sweep, and another in the other."""
    values: list[dict[str, set[str]]] = [{}, {}]
    for own, record in zip(values, records, strict=True):
        for trial in record.trials:
            for name, value in trial.knobs.items():
                own.setdefault(name, set()).add(repr(value))
    both = values[0].keys() & values[1].keys()
    return {n for n in both if len(values[0][n]) == len(values[1][n]) == 1 and values[0][n] != values[1][n]}


def _settings(trial: TrialRecord, ignored: set[str]) -> str:
    knobs = {name: value for name, value in trial.knobs.items() if name not in ignored}
    return json.dumps([architecture_of(trial), knobs], sort_keys=True)


def _reference(front: Front) -> list[float]:
    return [o.sign * o.reference for o in front.objectives]


def _interval(
    fronts: Sequence[Front], reference: list[float], measured: float
) -> tuple[tuple[float, float] | None, str]:
    """Of the difference of the hypervolumes, or why there is none.

    Every value is drawn from a normal distribution of its standard error. That of a mean over n seeds is its spread
    over the root of n; a single seed tells nothing of recall's.
    """
    draws = _DRAWS if len(reference) < 3 else _FEW_DRAWS
    random, differences = np.random.default_rng(_SEED), np.zeros(draws)
    if not any(_errors(front).any() for front in fronts):
        return None, "no errors are known"
    for sign, front in zip((-1, 1), fronts, strict=True):
        values, errors = front.values(front.candidates), _errors(front)
        # what cannot reach the front has no part in its hypervolume
        reaching = ~pareto.surely_placed(values, 3 * errors) | pareto.non_dominated(values)
        of_one = [
            o
            for o in front.objectives
            if any(_without_error(c, o) for c, own in zip(front.candidates, reaching, strict=True) if own)
        ]
        if of_one:
            return None, f"{title_of_objective(of_one[0])} has one seed"
        values, errors = values[reaching], errors[reaching]
        for draw in range(draws):
            drawn = values + errors * random.standard_normal(values.shape)
            differences[draw] += sign * pareto.hypervolume(drawn, reference)
    return bias_corrected(measured, differences), ""


def _without_error(candidate: Candidate, objective: Objective) -> bool:
    """Whether nothing tells the error of a candidate's value: recall differs from seed to seed, and it has one."""
    return objective.is_on_both_splits and candidate.n_seeds < 2


def _errors(front: Front) -> pareto.FloatArray:
    """The standard errors of the candidates' objectives -> (candidates, objectives)."""
    rows = [
        [c.spreads.get(o.reading, 0.0) / math.sqrt(c.n_seeds) for o in front.objectives]
        for c in front.candidates
    ]
    return np.array(rows, dtype=np.float64).reshape(len(front.candidates), len(front.objectives))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    first, second = _flat(before), _flat(after)
    keys = dict.fromkeys([*first, *second])
    return tuple(
        (key, first.get(key, "–"), second.get(key, "–")) for key in keys if first.get(key) != second.get(key)
    )


def _flat(spec: Any, prefix: str = "") -> dict[str, str]:
    """A specification on one level; the blocks of its space by their architecture."""
    if prefix == "space." and isinstance(spec, list):
        named: dict[str, list[Any]] = {}
        for block in spec:
            named.setdefault(str(block.get("architecture")), []).append(block)
        spec = {name: blocks[0] if len(blocks) == 1 else blocks for name, blocks in named.items()}
    if isinstance(spec, Mapping):
        found: dict[str, str] = {}
        for key, value in spec.items():
            found |= _flat(value, f"{prefix}{key}.")
        return found
    return {printable(prefix.removesuffix(".")): json.dumps(spec)}


def _cell(candidate: Candidate | None, name: str, of_spread: int) -> float | str:
    if candidate is None:
        return ""
    return (candidate.spreads if of_spread else candidate.metrics).get(name, "")


def headings(objectives: Sequence[Objective]) -> list[str]:
    """The objectives as headings of a comparison's tables."""
    return [title_of_objective(objective) for objective in objectives]


def described(row: Compared, objectives: Sequence[Objective]) -> list[tuple[str, str]]:
    """For each objective the value in the first sweep and in the second, as a person reads them."""
    sides = (row.before, row.after)
    told = [tuple(c.describe(o.reading) if c else "–" for c in sides) for o in objectives]
    return [(first, second) for first, second in told]
