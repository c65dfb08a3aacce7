"""Picks one configuration from a sweep's front, writes it out, and registers it under an alias."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recallfront.platform import pareto
from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.conditions import (
    Condition,
    check_name,
    knobs_with_none,
    parse_conditions,
    read,
    read_shown,
    validation_twin,
)
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.metrics import named_in_condition, title_of
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.records import read_record
from recallfront.sweeps.conditions import is_number


@dataclass(frozen=True)
class Picked:
    """The configuration that was chosen, and why."""

    candidate: Candidate
    front: Front
    reason: str  # one sentence, with figures
    runner_up: Candidate | None = None

    @property
    def run_id(self) -> str:
        """The run of its best seed by validation recall."""
        return self.candidate.run_ids[0]


def pick(
    sweep: str | SweepRecord,
    *,
    where: str | Sequence[str] = (),
    maximise: str | None = None,
    minimise: str | None = None,
    knee: bool = False,
    members_only: bool = True,
    test_split_anyway: bool = False,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> Picked:
    """Choose one configuration of a sweep: the best in a metric, or the knee, of those that match.

    In conditions `recall` is validation recall, as selection must not look at the test split; `test_recall`
    is the other. With neither `maximise` nor `minimise`, the knee is chosen, or the best in the first objective
    if there is no knee.

    Args:
        sweep: its name, the id of its run, or its record.
        where: clauses such as `recall >= 0.9 and architecture == based`; all must hold.
        maximise: the metric to maximise.
        minimise: the metric to minimise.
        knee: choose the one farthest above the line between the ends, and nothing if there is none.
        test_split_anyway: let the test split decide, which then is not a test any more.
        members_only: choose only from the members of the front.
        home: the folder of all outputs; only read if `tracking_uri` is not given.
        tracking_uri: the MLflow store that holds the sweep.

    Raises:
        UsageError: a clause cannot be read, nothing matches (the message names the nearest), nothing has
            finished, there is no `knee`, or more than one of `maximise`, `minimise` and `knee` is given.
    """
    if sum((maximise is not None, minimise is not None, knee)) > 1:
        raise UsageError(
            "give only one of a metric to maximise (--max), a metric to minimise (--min) and the knee (--knee)"
        )
    record = read_record(sweep, home=home, tracking_uri=tracking_uri)
    front = build_front(record)
    _require_candidates(front, record)
    metric = maximise or minimise
    if metric is not None:
        check_name(metric, front.candidates, f"metric to {'maximise' if maximise else 'minimise'}")
    conditions = parse_conditions(where, front.candidates, knobs_with_none(record))
    if not test_split_anyway:
        _keep_the_test_split([name for name in (metric, *(c.name for c in conditions)) if name], front)
    pool = front.members if members_only else front.candidates
    matching = [c for c in pool if all(condition.holds(c) for condition in conditions)]
    kind = _kind(len(matching), conditions, members_only)
    if not matching:
        raise UsageError(_nothing_matches(front, pool, conditions, kind))
    if knee and front.knee_of(matching) is None:
        raise UsageError(
            f"there is no knee among the {len(matching)} {kind}: none that is better than the hypervolume's reference "
            "lies above the line between the ends; choose by --max, --min or --where"
        )
    if len(matching) == 1:
        reason = f"{matching[0].label} is the only {kind} ({_figures(front, matching[0])})."
        return Picked(matching[0], front, reason)
    if metric is None:
        return _pick_knee(front, matching, kind)
    return _pick_best(front, matching, kind, metric, sign=1.0 if maximise else -1.0)


def _keep_the_test_split(names: Sequence[str], front: Front) -> None:
    metrics = {name for candidate in front.candidates for name in candidate.metrics}
    for name in names:
        if twin := validation_twin(name, metrics):
            is_there = named_in_condition(twin) in metrics
            instead = (
                f"choose by the validation split (`{twin}`)"
                if is_there
                else "the validation split has no such rows"
            )
            raise UsageError(
                f"{name}: what is chosen by the test split is not tested by it; {instead}, or say --test-split-anyway"
            )


def _require_candidates(front: Front, record: SweepRecord) -> None:
    if front.candidates:
        return
    counts = Counter(trial.status.value for trial in record.trials)
    counted = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no trials"
    raise UsageError(f"sweep {front.sweep!r} has no finished trial to pick from ({counted})")


def _pick_best(front: Front, matching: list[Candidate], kind: str, metric: str, sign: float) -> Picked:
    first = front.objectives[0]  # decides between equals

    def merit(candidate: Candidate) -> tuple[float, float]:
        value = read(candidate, metric)
        assert isinstance(value, int | float)
        return sign * value, first.sign * candidate.metrics[first.reading]

    ranked = sorted((c for c in matching if is_number(read(c, metric))), key=merit, reverse=True)
    if not ranked:
        raise UsageError(f"{metric} is not a number for any of the {len(matching)} {kind}")
    best, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
    extreme = "highest" if sign > 0 else "lowest"
    reason = (
        f"{best.label} has the {extreme} {_name(metric)}, {read_shown(best, metric)}, "
        f"of the {len(matching)} {kind} ({_figures(front, best, without=metric)})"
    )
    if runner_up:
        reason += f"; next is {runner_up.label} with {read_shown(runner_up, metric)}"
    return Picked(best, front, reason + ".", runner_up)


def _pick_knee(front: Front, matching: list[Candidate], kind: str) -> Picked:
    knee, among = front.knee_of(matching), f"the {len(matching)} {kind}"
    if knee is None:
        return _pick_end(front, matching, among)
    useful = front.useful(matching)
    distances, ratios = (of(front.values(useful)) for of in (pareto.chord_distances, pareto.trade_off_ratio))
    ranked = sorted(zip(distances, ratios, useful, strict=True), key=lambda row: -row[0])
    ((distance, ratio),) = [(d, r) for d, r, candidate in ranked if candidate is knee]
    runner_up = next(candidate for _, _, candidate in ranked if candidate is not knee)
    reason = (
        f"{knee.label} is the knee of {among} ({_figures(front, knee)}): it lies {distance:.2f} above the line between "
        f"their ends, and any exchange loses at least {ratio:.1f} times what it wins; next is {runner_up.label}."
    )
    return Picked(knee, front, reason, runner_up)


def _pick_end(front: Front, matching: list[Candidate], among: str) -> Picked:
    """What is chosen if there is no knee: the best in the first objective."""
    first = front.objectives[0]
    best, runner_up = sorted(matching, key=lambda c: -first.sign * c.metrics[first.reading])[:2]
    reason = (
        f"{best.label} is the end of best {_name(first.metric)} of {among}, which have no knee "
        f"({_figures(front, best)}); next is {runner_up.label}."
    )
    return Picked(best, front, reason, runner_up)


def _figures(front: Front, candidate: Candidate, without: str = "") -> str:
    """The candidate's objectives, recall on both splits."""
    others = [o for o in front.objectives if without not in (o.metric, o.reading)]
    told = [f"{_name(o.metric)} {candidate.describe(o.reading)}" for o in others]
    if "recall" in candidate.metrics:
        told.append(f"{title_of('recall')} {candidate.describe('recall')}")
    return ", ".join(told)


def _kind(count: int, conditions: list[Condition], members_only: bool) -> str:
    """What is chosen among, in words."""
    noun = "member" if members_only else "configuration"
    kind = (noun if count < 2 else noun + "s") + (" of the front" if members_only else "")
    return kind + (f" with {' and '.join(map(str, conditions))}" if conditions else "")


def _nothing_matches(front: Front, pool: Sequence[Candidate], conditions: list[Condition], kind: str) -> str:
    scale = {condition.name: _extent(condition.name, front.candidates) for condition in conditions}

    def shortfall(candidate: Candidate) -> float:
        return sum(condition.shortfall(candidate, scale[condition.name]) for condition in conditions)

    nearest = min(pool, key=shortfall)
    values = ", ".join(f"{name} {read_shown(nearest, name)}" for name in scale)
    message = f"there is no {kind}; the nearest is {nearest.label} with {values}"
    elsewhere = sum(all(condition.holds(c) for condition in conditions) for c in front.candidates)
    return message + (f" ({elsewhere} off the front would match: use --any)" if elsewhere else "")


def _extent(name: str, candidates: Sequence[Candidate]) -> float:
    """How far apart the candidates lie in one metric; 1 if they do not."""
    values = [value for c in candidates if isinstance(value := read(c, name), int | float)]
    return (max(values) - min(values) if values else 0.0) or 1.0


def _name(metric: str) -> str:
    return title_of(named_in_condition(metric))
