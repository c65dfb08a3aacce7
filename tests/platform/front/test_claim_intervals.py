"""Intervals of claims: what resampled seeds and the spread of a measured rate make of a number and its verdict."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from recallfront.platform.front.claims import ClaimVerdict, judge
from recallfront.platform.front.measures import DRAWS, Resampled, _ranks
from recallfront.platform.metrics import metric, name_for_condition
from recallfront.platform.results.records import SweepRecord
from tests.platform.front.claimed import ROWS, Row, sweep, trial, verdict


def test_the_interval_is_that_of_a_bootstrap_over_seeds() -> None:
    """Against the exact distribution of the difference of two means: 3^3 resamples of each."""
    means = [np.array(np.meshgrid(*[row[2]] * 3)).reshape(3, -1).mean(axis=0) for row in (ROWS[0], ROWS[2])]
    exact = np.quantile((means[0][:, None] - means[1]).ravel(), [0.025, 0.975])
    measures = {
        "based": "mean test_recall where architecture == based and width == 1000",
        "window": "mean test_recall where architecture == window and width == 1000",
    }
    judged = verdict(measures, "based - window >= 0")
    assert judged.interval is not None
    # the lattice of the means has steps of 1/300: the drawn quantile is at most one step off
    assert np.abs(np.array(judged.interval) - exact).max() <= 1 / 300 + 1e-12
    assert judge(sweep(measures, "based - window >= 0")) == (judged,), "the draws are seeded"


def test_a_number_lies_in_its_interval_and_no_verdict_is_against_it() -> None:
    """A correlation near 1 falls in nearly every draw, and the best of equal configurations rises."""
    recalls = [0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.22]
    spread = [(recall - 0.03, recall, recall + 0.031) for recall in recalls]
    rows: list[Row] = [
        (name, 1 + n, own) for n, (name, own) in enumerate(zip("abcdefg", spread, strict=True))
    ]
    correlation = {"m": "correlation test_recall over state_bytes"}
    judged = verdict(correlation, "m >= 0.99", rows)
    assert judged.value == 1.0 and judged.interval is not None and judged.interval[1] == 1.0
    assert judged.verdict is ClaimVerdict.UNDECIDED and "contains 0.99" in judged.reason
    equal: list[Row] = [(name, 1, (0.50, 0.60, 0.70)) for name in "abcdefgh"]
    judged = verdict({"m": "highest test_recall"}, "m <= 0.6001", equal)
    assert judged.value is not None and judged.interval is not None
    assert judged.interval[0] <= judged.value <= judged.interval[1]
    assert judged.verdict is not ClaimVerdict.CONTRADICTED


@pytest.mark.parametrize("count", [1, 2, 3, 5, 15, 16])
@pytest.mark.parametrize("name", ["validation_recall", "decode_tokens_per_second", "busy_cores"])
def test_a_draw_is_joined_as_its_seeds_are(
    make_record: Callable[..., SweepRecord], count: int, name: str
) -> None:
    first, random = make_record(1).trials[0], np.random.default_rng(count)
    trials = [
        replace(first, config=first.config | {"seed": seed}, metrics={name: float(random.uniform(0.1, 1e3))})
        for seed in range(count)
    ]
    found = Resampled(trials, ())
    own = np.array([t.metrics[name] for t in found._trials])
    each = [metric(name).join(row) for row in own[found._seeds].tolist()]
    values = found.metric(name_for_condition(name))
    assert values is not None and values.tolist() == each, "to the last bit"


def test_a_measured_rate_varies_by_its_own_spread() -> None:
    record = sweep({"rate": "mean decode_tokens_per_second"}, "rate >= 90", seeds=1)
    rates = {"decode_tokens_per_second": 100.0, "decode_tokens_per_second_spread": 2.0}
    (judged,) = judge(replace(record, trials=(trial(ROWS[0], 0, **rates),), tags={}))
    assert judged.interval is not None and judged.verdict is ClaimVerdict.SUPPORTED
    # half the p20..p80 width of a normal distribution is 0.8416 of its deviation, and 95 % lie within 1.96 of it
    half = (judged.interval[1] - judged.interval[0]) / 2
    assert half == pytest.approx(1.96 * 2.0 / 0.8416, rel=4 / DRAWS**0.5)


def test_a_choice_that_other_seeds_do_not_allow_is_undecided() -> None:
    """Recall reaches 0.91 on the mean, and in nearly half of the draws it does not."""
    judged = verdict(
        {"least": "lowest state_bytes where architecture == based and test_recall >= 0.909"}, "least < 9e9"
    )
    assert judged.verdict is ClaimVerdict.UNDECIDED and "select no configuration" in judged.reason


def test_a_bound_of_a_choice_that_other_seeds_do_not_allow_is_undecided() -> None:
    """In a third of the draws no configuration reaches 0.99, and nothing has a state to be compared with."""
    rows: list[Row] = [("deltanet", 400, (0.995, 0.995, 0.965)), ("based", 300, (0.80, 0.81, 0.82))]
    measures = {
        "delta": "lowest state_bytes where recall >= 0.99 and architecture == deltanet",
        "based": "best test_recall where architecture == based and state_bytes <= delta.state_bytes",
    }
    for op in ("<=", "!="):
        asked = measures | {"based": measures["based"].replace("<=", op)}
        judged = verdict(asked, "based >= 0.5", rows)
        assert judged.verdict is ClaimVerdict.UNDECIDED and "select no configuration" in judged.reason


def test_a_mean_over_a_choice_that_some_draws_lack() -> None:
    judged = verdict({"m": "mean test_recall where recall >= 0.83"}, "m >= 0.5", [("a", 1, (0.7, 0.9, 0.95))])
    assert judged.verdict is ClaimVerdict.UNDECIDED, "and no warning, which would be an error"


def test_ranks_of_many_configurations_take_no_matrix() -> None:
    values = np.random.default_rng(0).integers(0, 40, 200).astype(float)
    pairs = values[:, None]
    own = (pairs > values).sum(axis=1) + 0.5 * (pairs == values).sum(axis=1)
    assert (_ranks(values) == own).all(), "equal values share their mean rank"
    many = np.random.default_rng(1).random(200_000)
    assert sorted(_ranks(many)) == [place + 0.5 for place in range(len(many))]


def test_a_figure_of_a_rate_varies_as_the_rate_does() -> None:
    """A share of the roofline and a latency are measured with the rate that they belong to, and have its spread."""
    record = sweep({"share": "mean decode_roofline_share_at_512"}, "share >= 0.5", seeds=1)
    rates = {
        "decode_tokens_per_second_at_512": 100.0,
        "decode_tokens_per_second_at_512_spread": 2.0,
        "decode_roofline_share_at_512": 0.5,
    }
    (judged,) = judge(replace(record, trials=(trial(ROWS[0], 0, **rates),), tags={}))
    assert judged.verdict is ClaimVerdict.UNDECIDED and judged.interval is not None
    half = (judged.interval[1] - judged.interval[0]) / 2
    assert half == pytest.approx(1.96 * 0.01 / 0.8416, rel=4 / DRAWS**0.5)
