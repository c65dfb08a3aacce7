"""Verdicts on claims: the numbers are those of the trials, and a verdict never says more than the seeds do."""

import json
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.front.claims import ClaimVerdict, Judgement, as_json, judge
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.conditions import parse_clauses
from tests.platform.front.claimed import BASED, ROWS, Row, sweep, verdict


def test_a_condition_that_holds_is_supported() -> None:
    judged = verdict(BASED, "based >= 0.85")
    assert judged.verdict is ClaimVerdict.SUPPORTED and judged.reason == ""
    assert judged.value == pytest.approx(0.91)
    # of 27 resamples two are one seed thrice: 3.7 % each
    assert judged.interval == pytest.approx((0.90, 0.92))
    assert judged.number == "0.91 [0.9, 0.92]" and judged.configurations == ("based · width 4000",)


@pytest.mark.parametrize("op", [">=", "<=", ">", "<"])
def test_a_number_that_differs_by_rounding_alone_is_equal(op: str) -> None:
    """fmean([0.95] * 3) is 0.9499999999999998, and 0.3 - 0.2 is below 0.1."""
    of_equals = ClaimVerdict.SUPPORTED if "=" in op else ClaimVerdict.CONTRADICTED
    rows: list[Row] = [("based", state, (0.95,) * 3) for state in range(1, 6)]
    for selection in ("width == 1", "width >= 1", "test_recall >= 0.95", "test_recall == 0.95"):
        judged = verdict({"m": f"mean test_recall where {selection}"}, f"m {op} 0.95", rows)
        assert judged.verdict is of_equals
    pair: list[Row] = [("based", 1, (0.3,) * 3), ("window", 1, (0.2,) * 3)]
    window = {"window": "best test_recall where architecture == window"}
    assert verdict(BASED | window, f"based - window {op} 0.1", pair).verdict is of_equals


def test_whole_numbers_are_compared_exactly() -> None:
    for op, accepted in (("<", True), ("<=", True), ("==", False), ("!=", True), (">=", False), (">", False)):
        (clause,) = parse_clauses(f"state_bytes {op} 2147483648")
        assert clause.accepts(2147483646) is accepted


def test_a_condition_that_is_false_by_construction_is_contradicted() -> None:
    assert verdict(BASED, "based - based > 0").verdict is ClaimVerdict.CONTRADICTED
    assert verdict(BASED, "based <= 0.5").verdict is ClaimVerdict.CONTRADICTED


def test_an_interval_that_contains_the_threshold_is_undecided() -> None:
    judged = verdict(BASED, "based >= 0.909")
    assert judged.verdict is ClaimVerdict.UNDECIDED and judged.reason == "the interval contains 0.909"


def test_too_few_seeds_are_undecided() -> None:
    judged = verdict({"hawk": "best test_recall where architecture == hawk"}, "hawk >= 0.5")
    assert judged.verdict is ClaimVerdict.UNDECIDED and judged.interval is None and judged.value == 0.8
    assert judged.reason == "hawk · width 100 has 1 of the 3 seeds that it needs"
    assert judged.number == "0.8 (one seed)"


def test_a_claim_that_asks_for_one_seed_has_no_interval() -> None:
    """Every draw of one seed is itself, so that an interval over seeds would be a point."""
    hawk = {"hawk": "mean recall where architecture == hawk"}
    judged = verdict(hawk, "hawk > 0", seeds=1)
    assert judged.verdict is ClaimVerdict.SUPPORTED and judged.interval is None and judged.seeds == 1
    assert judged.number == "0.81 (one seed)"
    assert verdict(hawk, "hawk < 0.5", seeds=1).verdict is ClaimVerdict.CONTRADICTED
    (row,) = json.loads(as_json([judged]))["data"]
    assert row[2:5] == [pytest.approx(0.81), None, None]
    # three seeds that agree have one, which is a point
    equal = verdict(hawk, "hawk > 0", [("hawk", 100, (0.8, 0.8, 0.8))])
    assert equal.number == "0.81 [0.81, 0.81]"


def test_trials_that_are_still_to_run_leave_it_undecided() -> None:
    record = sweep(BASED, "based >= 0.85")
    (judged,) = judge(replace(record, tags={"trials_planned": "40"}))
    assert judged.verdict is ClaimVerdict.UNDECIDED and judged.reason == "16 of 40 trials have ended"
    # a sampler's number is not that of its trials
    sampled = replace(record, spec=record.spec | {"search": {"method": "tpe"}})
    for status, verdict_of_it in (("running", ClaimVerdict.UNDECIDED), ("finished", ClaimVerdict.SUPPORTED)):
        (judged,) = judge(replace(sampled, tags={"trials_planned": "40", "status": status}))
        assert judged.verdict is verdict_of_it


@pytest.mark.parametrize("method", ["grid", "tpe"])
def test_a_search_that_was_asked_to_its_end_leaves_what_runs_again(method: str) -> None:
    """What was planned and proposed twice is one trial; a budget ends a sweep before its search does."""
    record = sweep(BASED, "based >= 0.85")
    record = replace(record, spec=record.spec | {"search": {"method": method}})
    tags = {"trials_planned": "40", "status": "finished"}
    for exhausted, expected in (("True", ClaimVerdict.SUPPORTED), ("False", ClaimVerdict.UNDECIDED)):
        (judged,) = judge(replace(record, tags=tags | {"exhausted": exhausted}))
        assert judged.verdict is expected
    lost = ended(record, ("window-1000-1", Status.LOST))
    for told in ({"exhausted": "True"}, {}):
        (judged,) = judge(replace(lost, tags=tags | told))
        assert (judged.verdict, judged.reason) == (ClaimVerdict.UNDECIDED, "15 of 40 trials have ended")


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("best test_recall where recall >= 2", "m: no finished configuration with recall >= 2"),
        (
            "best test_recal where recall >= 0",
            "m: no finished trial has 'test_recal'; did you mean test_recall?",
        ),
        (
            "best test_recall where architectur != based",
            "m: no finished trial has 'architectur'; did you mean architecture?",
        ),
        ("mean test_recall where contribution >= 0", "m: no finished trial has 'contribution'"),
        ("mean architecture", "m: architecture is not a number"),
        ("slope recall over state_bytes where architecture == hawk", "m: only 1 finished configuration with"),
    ],
)
def test_what_is_missing_is_not_tested(measure: str, told: str) -> None:
    judged = verdict({"m": measure}, "m > 0")
    assert (
        judged.verdict is ClaimVerdict.NOT_TESTED and judged.reason.startswith(told) and judged.number == "–"
    )
    assert verdict({"m": "mean recall"}, "m / (m - m) > 0").verdict is ClaimVerdict.NOT_TESTED


def test_at_equal_state_is_at_most_the_state_of_the_chosen_one() -> None:
    at_equal = "best test_recall where architecture == window and state_bytes <= based.state_bytes"
    judged = verdict(BASED | {"window": at_equal}, "based - window >= 0.1")
    assert judged.value == pytest.approx(0.91 - 0.53) and judged.verdict is ClaimVerdict.SUPPORTED
    anywhere = verdict(
        BASED | {"window": "best recall where architecture == window"}, "based - window >= 0.1"
    )
    assert anywhere.verdict is ClaimVerdict.CONTRADICTED


@pytest.mark.parametrize("statistic", ["best test_recall", "highest recall", "lowest charge"])
def test_of_equals_the_one_with_the_least_state_is_chosen_in_whatever_order_they_ran(statistic: str) -> None:
    rows: list[Row] = [("based", state, (1.0,) * 3) for state in (6400, 400, 900)]
    at_equal = "best test_recall where architecture == window and state_bytes <= based.state_bytes"
    measures = {"based": f"{statistic} where architecture == based", "window": at_equal}
    windows: list[Row] = [("window", 400, (0.5,) * 3), ("window", 6400, (1.0,) * 3)]
    record = sweep(measures, "window + 0 * based <= 0.5", rows + windows)
    record = replace(
        record, trials=tuple(replace(own, metrics=own.metrics | {"charge": 1.0}) for own in record.trials)
    )
    for trials in (record.trials, record.trials[::-1]):
        (judged,) = judge(replace(record, trials=trials))
        assert judged.verdict is ClaimVerdict.SUPPORTED and judged.value == 0.5
        assert judged.configurations == ("based · width 400", "window · width 400")
    # so are means that rounding moves: 0.9279999999999999 and 0.928
    sums: list[Row] = [("based", 6400, (0.92, 0.928, 0.936)), ("based", 400, (0.92, 0.92, 0.944))]
    highest = {"based": "highest test_recall where architecture == based"}
    assert verdict(highest, "based > 0", sums).configurations == ("based · width 400",)
    # those of one state have an order of their own
    alike = [replace(own, metrics=own.metrics | {"state_bytes": 400.0}) for own in record.trials]
    first, second = (judge(replace(record, trials=tuple(own)))[0] for own in (alike, alike[::-1]))
    assert first.configurations == second.configurations


def test_statistics_are_those_of_the_configurations() -> None:
    where = "where architecture == window"
    means = [fmean(row[2]) for row in ROWS[2:5]]

    def value(measure: str) -> float | None:
        return verdict({"m": measure}, "m > -9").value

    assert value(f"mean test_recall {where}") == pytest.approx(fmean(means))
    assert value(f"highest test_recall {where}") == pytest.approx(means[2])
    assert value(f"lowest state_bytes {where} and recall >= 0.5") == 4000
    slope = np.polyfit(np.log2([1000, 4000, 9000]), means, 1)[0]
    assert value(f"slope test_recall over log2(state_bytes) {where}") == pytest.approx(slope)
    assert value(f"correlation test_recall over width {where}") == pytest.approx(1.0)


def test_a_rank_correlation_shares_the_ranks_of_equal_values() -> None:
    rows = [(name, 1, (recall,)) for name, recall in (("a", 0.1), ("b", 0.2), ("c", 0.2), ("d", 0.9))]
    rows = [(name, state, recall) for (name, _, recall), state in zip(rows, (5, 6, 7, 7), strict=True)]
    judged = verdict({"m": "correlation test_recall over state_bytes"}, "m > 0", rows, seeds=1)
    assert judged.value == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3.5, 3.5])[0, 1])


def test_the_table_is_what_mlflow_shows_as_one() -> None:
    found = json.loads(as_json(judge(sweep(BASED, "based >= 0.85"))))
    (row,) = found["data"]
    told = dict(zip(found["columns"], row, strict=True))
    assert told["verdict"] == "supported" and told["threshold"] == ">= 0.85" and told["claim"] == "asked"


def test_a_claim_that_somebody_edited_in_the_store_is_one_sentence() -> None:
    record = sweep(BASED, "based >= 0.85")
    record.spec["claims"][0]["condition"] = "import os"
    with pytest.raises(UsageError, match="sweep study: a claim in the store cannot be read"):
        judge(record)


def test_a_sweep_without_claims_has_no_verdicts(make_record: Callable[..., SweepRecord]) -> None:
    assert judge(make_record()) == ()


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("correlation test_recall over spin", "m: spin is the same in all 6 configurations"),
        ("correlation spin over test_recall", "m: spin is the same in all 6 configurations"),
        ("slope test_recall over spin", "m: spin is the same in all 6 configurations"),
        ("slope test_recall over log2(charge)", "m: log2(charge) is of a value that is not positive"),
    ],
)
def test_a_relation_of_values_that_have_none_says_why(measure: str, told: str) -> None:
    record = sweep({"m": measure}, "m > 0", seeds=1)
    trials = [
        replace(trial, metrics=trial.metrics | {"spin": 2.0, "charge": float(at % 3 - 1)})
        for at, trial in enumerate(record.trials)
    ]
    (judged,) = judge(replace(record, trials=tuple(trials)))
    assert (judged.verdict, judged.reason) == (ClaimVerdict.NOT_TESTED, told)


def test_the_best_has_what_it_is_the_best_in() -> None:
    """With a minimised objective a configuration that lacks it is no better than one that has it."""
    record = sweep(
        {"m": "best test_recall"}, "m >= 0.5", [("based", 1, (0.9,) * 3), ("based", 2, (0.1,) * 3)]
    )
    latency: dict[str, Any] = {"metric": "time_to_first_token_p50_ms", "direction": "min", "reference": 100.0}
    trials = [replace(own, metrics=own.metrics | {latency["metric"]: 5.0}) for own in record.trials[:3]]
    spec = record.spec | {"objectives": [latency]}
    (judged,) = judge(replace(record, spec=spec, trials=(*trials, *record.trials[3:])))
    assert judged.configurations == ("based · width 1",) and judged.verdict is ClaimVerdict.SUPPORTED
    (judged,) = judge(replace(record, spec=spec))
    assert judged.reason == "m: no finished trial has 'time_to_first_token_p50_ms'"


def ended(record: SweepRecord, *ends: tuple[str, Status]) -> SweepRecord:
    """The same with trials, by how their names begin, that ended in another way."""

    def status(name: str) -> Status:
        return next((status for begin, status in ends if name.startswith(begin)), Status.FINISHED)

    return replace(record, trials=tuple(replace(own, status=status(own.run_id)) for own in record.trials))


@pytest.mark.parametrize(
    "measure",
    [
        "mean test_recall where architecture == window",
        "slope test_recall over state_bytes where architecture == window",
        "correlation test_recall over state_bytes",
    ],
)
def test_what_has_not_finished_leaves_a_mean_undecided(measure: str) -> None:
    """Those that finished may be the better ones; a choice of the best is of those that finished by design."""
    record = ended(
        sweep({"m": measure}, "m > 0", ROWS[:4] + [("window", 9, (0.1,) * 3)]), ("window-9", Status.PRUNED)
    )
    (judged,) = judge(record)
    of = "3 configurations" if "window" in measure else "5 configurations"
    assert judged.verdict is ClaimVerdict.UNDECIDED and judged.value is not None
    assert judged.reason == f"m: 1 of {of} that it may select has not finished (3 pruned)"
    (best,) = judge(ended(sweep(BASED, "based >= 0.85"), ("based-1000", Status.DOMINATED)))
    assert best.verdict is ClaimVerdict.SUPPORTED
    elsewhere = sweep({"m": "mean test_recall where architecture == based"}, "m > 0.5")
    (judged,) = judge(ended(elsewhere, ("window", Status.DIVERGED)))
    assert judged.verdict is ClaimVerdict.SUPPORTED, "it rests on none of those"
    (judged,) = judge(ended(elsewhere, ("based-1000", Status.INVALID)))
    assert judged.verdict is ClaimVerdict.SUPPORTED, "an impossible configuration is none"


def test_seeds_that_have_not_finished_leave_a_mean_undecided() -> None:
    rows: list[Row] = [("based", 1, (0.99, 0.99, 0.99, 0.1, 0.1))]
    record = sweep({"m": "mean test_recall where state_bytes == 1"}, "m >= 0", rows)
    gone = ended(record, ("based-1-3", Status.DIVERGED), ("based-1-4", Status.OUT_OF_MEMORY))
    (judged,) = judge(gone)
    told = "m: 1 of 1 configurations that it may select has not finished (1 diverged, 1 out of memory)"
    assert (judged.verdict, judged.reason) == (ClaimVerdict.UNDECIDED, told)
    # a failed attempt at a trial that has finished since is none of them
    again = [replace(own, status=Status.FINISHED) for own in gone.trials[3:]]
    (judged,) = judge(replace(gone, trials=(*gone.trials, *again)))
    assert judged.verdict is ClaimVerdict.SUPPORTED and judged.seeds == 5


@pytest.mark.parametrize("measure", ["best test_recall", "highest test_recall", "lowest state_bytes"])
def test_a_chosen_one_whose_seeds_have_not_all_finished_is_undecided(measure: str) -> None:
    rows: list[Row] = [("based", 1, (0.99,) * 5), ("window", 2, (0.5,) * 3)]
    record = sweep({"m": measure}, "m >= 0.9", rows)
    (judged,) = judge(ended(record, ("based-1-3", Status.DIVERGED), ("based-1-4", Status.PRUNED)))
    told = "m: 1 of 1 configurations that it may select has not finished (1 diverged, 1 pruned)"
    assert (judged.verdict, judged.reason) == (ClaimVerdict.UNDECIDED, told)
    (judged,) = judge(ended(record, ("window-2-1", Status.DIVERGED)))
    assert judged.verdict is ClaimVerdict.SUPPORTED, "of a choice of those that finished, another one is none"


def test_a_metric_that_is_not_finite_leaves_a_mean_undecided() -> None:
    record = sweep({"m": "mean spin where architecture == based"}, "m <= 5")

    def spinning(record: SweepRecord, **values: float) -> SweepRecord:
        trials = [
            replace(own, metrics=own.metrics | {"spin": values.get(own.run_id.replace("-", "_"), 1.0)})
            for own in record.trials
        ]
        return replace(record, trials=tuple(trials))

    (judged,) = judge(spinning(record, based_4000_1=float("inf")))
    told = "m: spin of based · width 4000 has no finite value in 1 of 3 seeds"
    assert (judged.verdict, judged.reason, judged.value) == (ClaimVerdict.UNDECIDED, told, 1.0)
    nan = {f"based_{state}_{seed}": float("nan") for state in (1000, 4000) for seed in range(3)}
    (judged,) = judge(spinning(record, **nan))
    told = "m: spin of based · width 1000 has no finite value in 3 of 3 seeds"
    assert (judged.verdict, judged.reason) == (ClaimVerdict.NOT_TESTED, told)


@pytest.mark.parametrize(
    "selection", ["positions == none", "positions in (none, alibi)", "positions == 'none'"]
)
def test_none_is_a_word_where_it_is_a_value(selection: str) -> None:
    """An architecture without the setting has no value of it; it has null, where `none` is no word."""
    record = sweep({"m": f"mean test_recall where {selection}"}, "m >= 0.9", [("attention", 1, (0.9,) * 3)])
    hawk = sweep({}, "", [("hawk", 1, (0.2,) * 3)]).trials
    model = {"architecture": "attention"}

    def judged(positions: str) -> Judgement:
        config = {"model": model | {"positions": positions}}
        attention = (replace(own, config=own.config | config) for own in record.trials)
        return judge(replace(record, trials=(*attention, *hawk)))[0]

    found = judged("none")
    assert found.verdict is ClaimVerdict.SUPPORTED and found.value == pytest.approx(0.9)
    without = judged("rope")
    assert without.value == (None if "'" in selection else pytest.approx(0.2))
    spec = record.spec | {"space": [{"architecture": "attention", "positions": ["none", "rope"]}]}
    record = replace(record, spec=spec)
    assert judged("rope").verdict is ClaimVerdict.NOT_TESTED, "whether or not such a trial has finished"


def test_in_selects_any_of_several() -> None:
    judged = verdict({"m": "lowest test_recall where architecture in (based, window)"}, "m < 0.5")
    assert judged.value == pytest.approx(0.31) and judged.verdict is ClaimVerdict.SUPPORTED
    several = verdict(
        {"m": "highest test_recall where width in (1000, 9000) and architecture in (based)"}, "m < 1"
    )
    assert several.configurations == ("based · width 1000",)


def test_a_formula_that_is_not_finite_says_so() -> None:
    judged = verdict(BASED, "based * 1e400 > 0")
    assert (judged.verdict, judged.reason) == (ClaimVerdict.NOT_TESTED, "the formula's value is not finite")
