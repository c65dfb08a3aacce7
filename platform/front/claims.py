"""Judges the claims of a sweep: what each comes to over the finished trials, and how sure that is over their seeds.

The interval is a bias-corrected bootstrap over seeds (`measures.py`). With few seeds it is narrower than its name says:
of three normal values a mean's covers 75 %, and that of a difference of two such means 81 %. One seed has no interval.
"""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from recallfront.models.configs.explain import explain
from recallfront.platform.errors import UsageError
from recallfront.platform.front.across import across_tasks, with_unfinished
from recallfront.platform.front.candidates import by_configuration, possible, read_objectives
from recallfront.platform.front.conditions import knobs_with_none
from recallfront.platform.front.intervals import SURE, bias_corrected
from recallfront.platform.front.measures import Floats, Reading, Resampled, read_measure
from recallfront.platform.results.labels import varying_knobs
from recallfront.platform.results.records import EXHAUSTED, SweepRecord, count, ended, planned
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.records import read_record
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.suite import Suite


class ClaimVerdict(StrEnum):
    """What the finished trials say of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict, the number that it rests on and that number's 95 % interval."""

    claim: Claim
    verdict: ClaimVerdict
    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""  # why it is undecided or not tested
    configurations: tuple[str, ...] = ()  # labels of those that the number rests on
    seeds: int = 0  # fewest of these configurations' finished seeds

    @property
    def number(self) -> str:
        """The number with its interval, as a person reads it; one seed tells of no interval over seeds."""
        if self.value is None:
            return "–"
        if self.interval is None:
            return f"{_short(self.value)} (one seed)" if self.seeds == 1 else _short(self.value)
        return f"{_short(self.value)} [{_short(self.interval[0])}, {_short(self.interval[1])}]"

    @property
    def asked(self) -> str:
        """What the number is compared with, such as `>= 0.05`."""
        return f"{self.claim.comparison.op} {_short(self.claim.comparison.threshold)}"


def claims(
    sweep: str | SweepRecord, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> tuple[Judgement, ...]:
    """The verdict on each claim of a sweep.

    Args:
        sweep: its name, the id of its run, or its record.
        home: the folder of all outputs; only read if `tracking_uri` is not given.
        tracking_uri: the MLflow store that holds the sweep.

    Raises:
        UsageError: there is no such sweep, or the store does not answer.
    """
    return judge(read_record(sweep, home=home, tracking_uri=tracking_uri))


def judge(record: SweepRecord) -> tuple[Judgement, ...]:
    """The verdict on each claim of a sweep's specification, from its finished trials."""
    asked = _claims_of(record)
    if not asked:
        return ()
    record = record.current()
    objective = read_objectives(record.spec)[0]
    varying = varying_knobs(record.trials)
    resampled = [Resampled(trials, varying) for trials in by_configuration(possible(record)).values()]
    pending = _pending(record)
    with_none = knobs_with_none(record)
    return tuple(_judge(claim, resampled, objective, pending, with_none) for claim in asked)


def judge_suite(suite: Suite, sweeps: Sequence[tuple[str, SweepRecord]]) -> tuple[Judgement, ...]:
    """The verdict on each claim of a suite, from the sweeps of its tasks; each stands with its task's name."""
    if not suite.claims:
        return ()
    joined = with_unfinished(across_tasks(sweeps, suite.means), sweeps)
    varying = varying_knobs(trial for trials in joined for trial in trials if trial.status is Status.FINISHED)
    resampled = [Resampled(trials, varying) for trials in joined]
    waiting = [f"sweep {record.name}: {why}" for _, record in sweeps if (why := _pending(record))]
    if len(sweeps) < len(suite.parts):
        waiting.append(f"{len(sweeps)} of {len(suite.parts)} sweeps have begun")
    with_none = frozenset[str]().union(*(knobs_with_none(record) for _, record in sweeps))
    return tuple(_judge(claim, resampled, None, "; ".join(waiting), with_none) for claim in suite.claims)


def _claims_of(record: SweepRecord) -> list[Claim]:
    try:
        return [Claim.model_validate(raw) for raw in record.spec.get("claims", ())]
    except ValidationError as error:
        told = explain(error, Claim)
        raise UsageError(f"sweep {record.name}: a claim in the store cannot be read: {told}") from None


def _pending(record: SweepRecord) -> str:
    """Why no claim is decided yet; empty where every trial that there is to be has ended."""
    counts = count(record)
    done, total = ended(counts), planned(record.tags)
    left = counts["running"] + counts["unfinished"]
    if done >= total or (_is_exhausted(record) and not left):
        return ""
    return f"{done} of {total} trials have ended"


def _is_exhausted(record: SweepRecord) -> bool:
    """Whether the search has no more to propose: what it proposed twice is not a trial of its own."""
    told = record.tags.get(EXHAUSTED)
    if told is None:  # its last run is older than the tag
        is_grid = record.spec.get("search", {}).get("method") == "grid"
        return record.tags.get("status") == "finished" and not is_grid
    return told == str(True)


def _judge(
    claim: Claim,
    configurations: Sequence[Resampled],
    objective: Objective | None,
    pending: str,
    with_none: Collection[str],
) -> Judgement:
    found: dict[str, Reading] = {}
    for name, measure in claim.parsed.items():
        found[name] = read_measure(measure, configurations, objective, found, with_none)
        if found[name].missing:
            return Judgement(claim, ClaimVerdict.NOT_TESTED, reason=f"{name}: {found[name].missing}")
    values: Floats = claim.comparison.value({name: own.values for name, own in found.items()})
    rests = list(dict.fromkeys(one for own in found.values() for one in own.rests))
    judgement = Judgement(claim, ClaimVerdict.UNDECIDED, configurations=tuple(one.name for one in rests))
    if not math.isfinite(values[0]):
        return replace(judgement, verdict=ClaimVerdict.NOT_TESTED, reason="the formula's value is not finite")
    few = min(rests, key=lambda one: one.candidate.n_seeds)
    seeds = few.candidate.n_seeds
    judgement = replace(judgement, value=float(values[0]), seeds=seeds)
    if seeds < claim.seeds:
        reason = f"{few.name} has {seeds} of the {claim.seeds} seeds that it needs"
        return replace(judgement, reason=reason)
    finite = values[np.isfinite(values)]
    if len(finite) < SURE * len(values):  # as many draws must give a number
        reason = "with other seeds the conditions select no configuration"
        return replace(judgement, reason=reason)
    low, high = bias_corrected(float(values[0]), finite[1:])
    if seeds > 1 or low < high:  # every draw of one seed is itself; a measured rate has its own spread
        judgement = replace(judgement, interval=(low, high))
    doubts = [f"{name}: {own.doubt}" for name, own in found.items() if own.doubt]
    if pending or doubts:
        return replace(judgement, reason=pending or doubts[0])
    ends = {claim.comparison.holds(end) for end in (low, high)}  # the number lies between them
    if len(ends) > 1:
        return replace(judgement, reason=f"the interval contains {_short(claim.comparison.threshold)}")
    verdict = ClaimVerdict.SUPPORTED if ends.pop() else ClaimVerdict.CONTRADICTED
    return replace(judgement, verdict=verdict)


def _short(value: float) -> str:
    """Three digits, or all of a whole number."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"


def as_json(judgements: Sequence[Judgement]) -> str:
    """The verdicts as a table: MLflow shows an artifact with `columns` and `data` as one."""
    columns = ["claim", "verdict", "number", "low", "high", "threshold", "sentence", "source", "reason"]
    rows = [
        [
            j.claim.id,
            j.verdict.value,
            j.value,
            *(j.interval or (None, None)),
            j.asked,
            *(j.claim.sentence, j.claim.source, j.reason),
        ]
        for j in judgements
    ]
    return json.dumps({"columns": columns, "data": rows}, indent=1)
