"""Picking from records."""

from dataclasses import replace
from typing import Any

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.conditions import knobs_with_none, parse_conditions
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pick import pick
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from tests.platform.front.picking import SPEC, trial


@pytest.fixture
def record() -> SweepRecord:
    trials = (
        trial("a", "attention", 0.99, 1000, 8192),
        trial("g1", "grouped", 0.95, 2500, 4096, group_size=8),
        trial("g2", "grouped", 0.93, 2400, 2048, group_size=16),
        trial("b", "based", 0.80, 3500, 2048, window_size=4),
        trial("w", "window", 0.40, 4000, 1024, window_size=8),
        trial("h", "hawk", 0.35, 3900, 256),
        trial("lost", "griffin", 1.0, 9999, 1, status=Status.PRUNED),
    )
    return SweepRecord(run_id="parent", sweep_key="abc", name="study", spec=SPEC, trials=trials)


def test_the_fastest_with_enough_recall(record: SweepRecord) -> None:
    picked = pick(record, where="recall >= 0.9", maximise="decode_tokens_per_second")
    assert picked.run_id == "g1"
    assert picked.runner_up is not None and picked.runner_up.architecture == "attention"
    assert picked.reason == (
        "grouped · group_size 8 has the highest decode tokens/s, 2,500 ±25, of the 2 members of "
        "the front with recall >= 0.9 (validation recall 0.950, recall on test 0.900); "
        "next is attention with 1,000 ±10."
    )


def test_the_knee_is_chosen_when_nothing_else_is_asked(record: SweepRecord) -> None:
    picked = pick(record)
    assert picked.candidate == build_front(record).knee == pick(record, knee=True).candidate
    assert picked.candidate.architecture == "based"
    assert "is the knee of the 4 members of the front" in picked.reason
    assert "above the line between their ends" in picked.reason


def test_a_front_without_a_knee_is_told_as_such(record: SweepRecord) -> None:
    picked = pick(record, where="architecture != grouped and architecture != based")
    assert picked.candidate.architecture == "attention"
    assert "the end of best validation recall of the 2 members" in picked.reason
    assert "no knee" in picked.reason
    with pytest.raises(UsageError, match="there is no knee among the 2 members of the front with"):
        pick(record, where="architecture != grouped and architecture != based", knee=True)


def test_what_is_no_better_than_the_reference_is_no_knee(record: SweepRecord) -> None:
    """Nor an end of the line that the knee lies above."""
    useless = trial("zero", "hawk", 0.0, 90_000, 256)
    with_it = replace(record, trials=(*record.trials, useless))
    assert build_front(with_it).knee == build_front(record).knee == pick(with_it).candidate
    alone = replace(record, trials=(useless, trial("low", "window", 0.0, 95_000, 1)))
    assert build_front(alone).knee is None
    with pytest.raises(UsageError, match="no knee"):
        pick(alone, knee=True)


@pytest.mark.parametrize(
    ("where", "members_only", "expected"),
    [
        (["recall >= 0.9", "state_bytes < 8192"], True, ["g1"]),
        ("recall >= 0.9 and state_bytes < 8192", False, ["g1", "g2"]),
        ("test_recall>=0.89", True, ["a", "g1"]),
        ("architecture == based", True, ["b"]),
        ("architecture == 'based' AND window_size == 4", True, ["b"]),
        ("window_size != 8", False, ["a", "g1", "g2", "b", "h"]),
        ("window_size == none", False, ["a", "g1", "g2", "h"]),
        ("group_size > 8", False, ["g2"]),
        ("contribution > 0", True, ["a", "g1", "b", "w"]),
        ("decode_tokens_per_second >= 3.9e3", False, ["w", "h"]),
        ("n_seeds == 1 and recall < 0.4", False, ["h"]),
        ((), True, ["a", "g1", "b", "w"]),
    ],
)
def test_conditions(record: SweepRecord, where: Any, members_only: bool, expected: list[str]) -> None:
    front = build_front(record)
    conditions = parse_conditions(where, front.candidates, ())
    pool = front.members if members_only else front.candidates
    found = [c.run_ids[0] for c in pool if all(condition.holds(c) for condition in conditions)]
    assert sorted(found) == sorted(expected)


def test_none_is_a_word_where_it_is_a_value() -> None:
    trials = (
        trial("a", "attention", 0.9, 9.0, 4, positions="none"),
        trial("r", "attention", 0.9, 9.0, 4, positions="rope"),
        trial("l", "attention", 0.9, 9.0, 4, positions="alibi"),
        trial("h", "hawk", 0.9, 9.0, 4),
    )

    def found(where: str, *among: TrialRecord, **space: Any) -> list[str]:
        record = SweepRecord("run", "key", "study", SPEC | space, among)
        candidates = build_front(record).candidates
        (condition,) = parse_conditions(where, candidates, knobs_with_none(record))
        return sorted(own.run_ids[0] for own in candidates if condition.holds(own))

    assert found("positions == none", *trials) == ["a"]
    assert found("positions != none", *trials) == ["h", "l", "r"]
    assert found("positions == none", *trials[1:]) == ["h"]
    # it is one whether or not such a trial has finished
    stopped = replace(trials[0], status=Status.PRUNED)
    assert found("positions == none", stopped, *trials[1:]) == []
    spaces: list[dict[str, Any]] = [
        {"space": [{"architecture": "attention", "positions": ["none", "rope", "alibi"]}]},
        {"space": [{"architecture": "attention"}], "model": {"positions": "none"}},
    ]
    for space in spaces:
        assert found("positions == none", *trials[1:], **space) == []
        assert found("positions != none", *trials[1:], **space) == ["h", "l", "r"]


def test_a_mean_that_rounding_moved_meets_its_own_value() -> None:
    trials = tuple(trial(f"{seed}", "based", 0.95, 9.0, 4, seed=seed) for seed in range(3))
    (candidate,) = build_front(SweepRecord("run", "key", "study", SPEC, trials)).candidates
    for where, holds in {"recall >= 0.95": True, "recall == 0.95": True, "recall < 0.95": False}.items():
        (condition,) = parse_conditions(where, [candidate], ())
        assert condition.holds(candidate) is holds


def test_figures_of_the_test_split_are_told_by_their_twins(record: SweepRecord) -> None:
    """Those of text have plain names; a plain loss is that of training."""
    added = {
        "perplexity": 9.0,
        "validation_perplexity": 8.0,
        "loss": 2.0,
        "validation_loss": 2.5,
        "test_loss": 3.0,
    }
    text = replace(record, trials=tuple(replace(t, metrics=t.metrics | added) for t in record.trials))
    with pytest.raises(
        UsageError, match=r"^perplexity: .* validation split \(`validation_perplexity`\), or say"
    ):
        pick(text, minimise="perplexity")
    with pytest.raises(UsageError, match="`validation_loss`"):
        pick(text, where=["recall > 0", "test_loss < 9"])
    assert pick(text, minimise="perplexity", test_split_anyway=True).candidate.metrics["perplexity"] == 9.0
    for name in ("validation_perplexity", "loss", "recall", "state_bytes"):
        assert pick(text, minimise=name)


def test_a_length_that_the_test_split_alone_has_is_no_recall_to_choose_by(record: SweepRecord) -> None:
    """`recall_at_512` would be that of validation, which has no such rows."""
    long = {"recall_at_512": 0.5, "recall_at_64": 0.9, "validation_recall_at_64": 0.9}
    tested = replace(record, trials=tuple(replace(t, metrics=t.metrics | long) for t in record.trials))
    asks: list[dict[str, Any]] = [{"where": "recall_at_512 >= 0"}, {"maximise": "recall_at_512"}]
    for asked in asks:
        with pytest.raises(
            UsageError, match="no candidate has 'recall_at_512'; did you mean test_recall_at_512?"
        ):
            pick(tested, **asked)
    with pytest.raises(UsageError, match="the validation split has no such rows, or say --test-split-anyway"):
        pick(tested, maximise="test_recall_at_512")
    assert pick(tested, maximise="test_recall_at_512", test_split_anyway=True)
    with pytest.raises(UsageError, match=r"validation split \(`recall_at_64`\), or say"):
        pick(tested, maximise="test_recall_at_64")
    assert pick(tested, where="recall_at_64 >= 0.9")


def test_off_the_front_only_when_asked(record: SweepRecord) -> None:
    assert pick(record, minimise="state_bytes").run_id == "w"
    anywhere = pick(record, minimise="state_bytes", members_only=False)
    assert anywhere.run_id == "h"
    assert anywhere.reason.startswith("hawk has the lowest state, 256 B, of the 6 configurations (")


def test_the_only_match(record: SweepRecord) -> None:
    picked = pick(record, where="recall > 0.97", maximise="state_bytes")
    assert picked.reason.startswith("attention is the only member of the front with recall > 0.97 (")
    assert picked.runner_up is None


def test_equal_values_go_to_the_higher_recall(record: SweepRecord) -> None:
    assert pick(record, maximise="n_seeds").run_id == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "recall"}, r"condition 'recall': write `name op value`"),
        ({"where": "recall >= "}, r"write `name op value`"),
        ({"where": "recall >= 0.9 and"}, r"write `name op value`"),
        ({"where": ""}, r"write `name op value`"),
        ({"where": "0.5 < recall < 0.9"}, r"write `name op value`"),
        ({"where": "recall => 0.9"}, r"'=>' is not one of >= <= == != > <"),
        ({"where": "recall = 0.9"}, r"'=' is not one of"),
        ({"where": "recall >= high"}, r">= needs a number after it, got 'high'"),
        ({"where": "recall >= nan"}, r">= needs a number"),
        ({"where": f"recall >= {'9' * 400}"}, r">= needs a number"),
        ({"where": "recall >= '0.9'"}, r">= needs a number"),
        (
            {"where": "recal >= 0.9"},
            r"no candidate has 'recal'; did you mean recall\? known are architecture, ",
        ),
        ({"where": "__import__('os') == 1"}, r"write `name op value`"),
        ({"maximise": "speed"}, r"^metric to maximise: no candidate has 'speed'"),
        ({"minimise": "architecture"}, r"architecture is not a number for any of the 4 members of the front"),
        (
            {"maximise": "recall", "knee": True},
            r"only one of a metric to maximise \(--max\), .* and the knee \(--knee\)",
        ),
        (
            {"where": "recall >= 0.999"},
            r"no member of the front with recall >= 0.999; the nearest is attention with recall 0.990$",
        ),
        (
            {"where": "recall >= 0.9 and decode_tokens_per_second >= 2900"},
            r"the nearest is grouped · group_size 8 with recall 0.950, decode_tokens_per_second 2,500 ±25$",
        ),
        (
            {"where": "state_bytes < 1024"},
            r"nearest is window .* \(1 off the front would match: use --any\)$",
        ),
        (
            {"where": "architecture == griffin"},
            r"there is no member of the front with architecture == griffin",
        ),
    ],
)
def test_what_cannot_be_picked_is_explained(record: SweepRecord, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick(record, **options)


def test_nothing_to_pick_from(record: SweepRecord) -> None:
    empty = SweepRecord("parent", "abc", "study", SPEC, record.trials[-1:])
    with pytest.raises(UsageError, match=r"no finished trial to pick from \(1 pruned\)"):
        pick(empty)


@pytest.mark.parametrize(
    ("value", "condition", "holds"),
    [
        ("none", "k == none", True),
        ("none", "k != none", False),
        (None, "k == none", True),
        (None, "k == null", True),
        (None, "k == 'none'", False),
        ("none", "k == 'none'", True),
        ("alibi", "k != none", True),
        (4, "k == '4'", True),
        (4, "k != '4'", False),
        (4, "k == 4.0", True),
        (1, "k == true", False),
        (True, "k == 1", False),
        (True, "k == true", True),
        (False, "k != false", False),
        ("true", "k == true", False),
        ("alibi", "k in (rope, alibi)", True),
        (4, "k in (2, 3)", False),
        (None, "k in (rope, none)", True),
    ],
)
def test_conditions_compare_like_with_like(value: object, condition: str, holds: bool) -> None:
    candidate = Candidate("attention", {"k": value}, {}, {}, ("r",), ("t",))  # type: ignore[dict-item]
    with_none = ["k"] if value == "none" else []
    assert parse_conditions(condition, [candidate], with_none)[0].holds(candidate) == holds
