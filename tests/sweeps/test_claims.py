"""Claims as they are written: what can be read, what is refused in a sentence, and that they are no identity."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from recallfront.sweeps.base import canonical_json
from recallfront.sweeps.claims import Claim, parse_measure
from recallfront.sweeps.conditions import Clause, Reference
from recallfront.sweeps.spec import SweepSpec
from tests.platform.specs import tiny

CLAIM: dict[str, Any] = {
    "id": "attention-recalls-more",
    "source": "arXiv:2402.18668, figure 2",
    "sentence": "Attention recalls more than a window.",
    "measures": {
        "attention": "best test_recall where architecture == attention",
        "window": "best test_recall where architecture == window and state_bytes <= attention.state_bytes",
    },
    "condition": "attention - window >= 0.05",
}


def claim(**changes: Any) -> Claim:
    return Claim.model_validate(CLAIM | changes)


def test_a_measure_is_a_statistic_of_a_metric_and_its_clauses() -> None:
    measure = claim().parsed["window"]
    assert (measure.statistic, measure.metric, measure.over) == ("best", "test_recall", None)
    bound = Reference("attention", "state_bytes")
    assert measure.clauses[1] == Clause("state_bytes", "<=", bound)
    assert measure.selection == "architecture == window and state_bytes <= attention.state_bytes"
    slope = parse_measure("slope recall over log2(state_bytes)")
    assert (slope.metric, slope.over, slope.log, slope.clauses) == ("recall", "state_bytes", True, ())


def test_the_order_of_measures_is_free_as_a_store_keeps_none() -> None:
    stored = json.loads(canonical_json(claim(measures=dict(reversed(CLAIM["measures"].items())))))
    assert list(Claim.model_validate(stored).parsed) == ["attention", "window"]
    circle = {"a": "best recall where recall < b.recall", "b": "best recall where recall < a.recall"}
    with pytest.raises(ValidationError, match="measures: [ab] and [ab] refer to each other"):
        claim(measures=circle, condition="a - b > 0")
    with pytest.raises(ValidationError, match="measures: a refer"):
        claim(measures={"a": "best recall where recall < a.recall"}, condition="a > 0")


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a - b / c", 8.0),
        ("(a - b) / c", 3.0),
        ("-a + 2 * b * c", 6.0),
        ("max(a, b, c) - min(a, b + c)", 4.0),
        ("abs(b - a)", 6.0),
        ("1.5e1 - a", 5.0),
    ],
)
def test_a_formula_is_arithmetic(formula: str, value: float) -> None:
    measures = {"a": "mean recall", "b": "mean recall", "c": "mean recall"}
    used = " + ".join(["0 * a", "0 * b", "0 * c"])
    condition = claim(measures=measures, condition=f"{formula} + {used} > 0").comparison
    assert condition.value({"a": 10.0, "b": 4.0, "c": 2.0}) == value
    arrays = condition.value({name: np.full(3, v) for name, v in {"a": 10.0, "b": 4.0, "c": 2.0}.items()})
    assert (arrays == value).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"condition": "attention - windw >= 0"}, "'windw' is not a measure; measures are attention, window"),
        ({"condition": "attention - window = 0"}, "write `FORMULA >= NUMBER`"),
        ({"condition": "0 <= attention - window"}, "write `FORMULA >= NUMBER`"),
        ({"condition": "(attention - window >= 0"}, "it ends where \\) must follow"),
        ({"condition": "attention window >= 0"}, "'window' is not expected there"),
        ({"condition": "attention - >= 0"}, "it ends where a measure, a number or"),
        ({"condition": "__import__('os') >= 0"}, "cannot be read"),
        ({"condition": "(" * 100 + " >= 0"}, "has more than 60 terms"),
        ({"condition": "attention >= 0"}, "measures.window: is used neither in the condition nor in another"),
        ({"measures": {"a": "largest recall"}}, "a statistic is one of best, highest, lowest, mean, slope"),
        ({"measures": {"a": "mean recall over steps"}}, "slope and correlation, and no other statistic"),
        ({"measures": {"a": "mean recall where recall >= many"}}, ">= needs a number after it, got 'many'"),
        ({"measures": {"A-b": "mean recall"}}, "'A-b' is not a name"),
        ({"id": "No Spaces"}, "String should match pattern"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        claim(**changes)


def test_claims_are_no_part_of_a_sweep_s_identity() -> None:
    plain = SweepSpec.model_validate(tiny())
    asked = tiny(claims=[CLAIM], question="Does it?", expected_minutes=3)
    assert SweepSpec.model_validate(asked).key == plain.key
    # the key of this specification before there were claims
    assert plain.key.startswith("5b83c079ea9c")


@pytest.mark.parametrize("clause", ["!= hybrid", "in (attention, gla)"])
def test_a_claim_may_leave_out_what_the_space_lacks(clause: str) -> None:
    measures = {"attention": f"best recall where architecture {clause}"}
    SweepSpec.model_validate(tiny(claims=[CLAIM | {"measures": measures, "condition": "attention > 0"}]))


def test_a_claim_names_an_architecture_of_the_space() -> None:
    measures = {"attention": "best recall where architecture == attenton"}
    wrong = CLAIM | {"measures": measures, "condition": "attention > 0"}
    told = "claims.attention-recalls-more.measures.attention: architecture attenton is not in the space"
    with pytest.raises(ValidationError, match=told):
        SweepSpec.model_validate(tiny(claims=[wrong]))
    with pytest.raises(ValidationError, match="each id may appear only once"):
        SweepSpec.model_validate(tiny(claims=[CLAIM, CLAIM]))


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        (
            "best recall where architecture != atention",
            "architecture atention is not in the space, which has attention",
        ),
        ("best recall where architecture in (attention, windw)", "architecture windw is not in the space"),
        ("best recall where positions == rop", "positions rop is not in the space, which has rope, alibi"),
        ("best recall where contribution > 0", "contribution is about the members of a front"),
        ("best architecture", "architecture is a word, and a measure and its bounds are numbers"),
        ("best recall where architecture == a.architecture", "architecture is a word, and a measure"),
    ],
)
def test_what_a_claim_can_never_mean_is_refused_with_the_specification(measure: str, told: str) -> None:
    measures = {"a": "best recall where architecture in (attention, window)", "b": measure}
    asked = CLAIM | {"measures": measures, "condition": "a - b > 0"}
    space = [
        {"architecture": "attention", "positions": ["rope", "alibi"]},
        {"architecture": "window", "positions": "alibi"},
    ]
    with pytest.raises(ValidationError, match=f"claims.attention-recalls-more.measures.b: {told}"):
        SweepSpec.model_validate(tiny(claims=[asked], space=space))
    fine = asked | {
        "measures": measures | {"b": "best recall where positions in (rope, none) and my_figure > 1"}
    }
    assert SweepSpec.model_validate(tiny(claims=[fine], space=space)).claims


@pytest.mark.parametrize("threshold", ["1.2.3", ".", "1e", "--1"])
def test_a_threshold_is_a_number(threshold: str) -> None:
    with pytest.raises(ValidationError, match="write `FORMULA >= NUMBER`"):
        claim(condition=f"attention - window >= {threshold}")
    assert claim(condition="attention - window >= -.5e1").comparison.threshold == -5
