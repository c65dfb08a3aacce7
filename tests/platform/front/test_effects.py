"""The effects of knobs: recovered from configurations of which they are known."""

import io
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import pytest
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.effects import effects


def candidate(architecture: str, recall: float, **knobs: float | str | None) -> Candidate:
    return Candidate(architecture, dict(knobs), {"recall": recall}, {}, ("r",), ("k",))


def test_partial_means_are_not_biased_by_unequal_numbers() -> None:
    """Recall is 0.1 a + 0.5 b without noise; plain means would mix the two, as a = 1 is mostly seen with b = 1."""
    pairs = [(0, 0), (0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1), (1, 1)]
    found = effects([candidate("based", 0.1 * a + 0.5 * b, a=a, b=b) for a, b in pairs], "recall")
    (of_a, of_b) = found
    assert [level.name for level in of_a.levels] == ["0", "1"]
    assert of_a.levels[1].mean - of_a.levels[0].mean == pytest.approx(0.1)
    assert of_b.levels[1].mean - of_b.levels[0].mean == pytest.approx(0.5)
    assert [level.count for level in of_b.levels] == [4, 4]
    assert of_a.levels[0].error == pytest.approx(0.0, abs=1e-9)


def test_the_interval_of_one_knob_is_that_of_a_mean() -> None:
    """With a single knob the model is the means of its levels, whose standard error is s / sqrt(n)."""
    random = np.random.default_rng(3)
    values = {16: random.normal(0.5, 0.1, 8), 32: random.normal(0.7, 0.1, 8)}
    found = effects(
        [candidate("window", v, window_size=w) for w, own in values.items() for v in own], "recall"
    )
    pooled = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in values.values()) / 14)
    for level, own in zip(found[0].levels, values.values(), strict=True):
        assert level.mean == pytest.approx(own.mean())
        assert level.error == pytest.approx(pooled / np.sqrt(8))
        assert level.ends is not None and level.ends[0] < own.mean() < level.ends[1]


def test_with_few_configurations_the_interval_holds_the_mean_as_often() -> None:
    """Two knobs of two levels leave one degree of freedom: 1.96 errors hold the mean 70 times of 100."""
    random, held, total = np.random.default_rng(0), 0, 0
    for _ in range(200):
        cells = [(a, b) for a in (0, 1) for b in (0, 1)]
        found = effects(
            [candidate("based", 0.1 * a + 0.05 * random.normal(), a=a, b=b) for a, b in cells], "recall"
        )
        for level, truth in zip(found[0].levels, (0.0, 0.1), strict=True):
            assert level.ends is not None and level.free == 1
            held, total = held + (level.ends[0] <= truth <= level.ends[1]), total + 1
    assert 0.9 < held / total < 0.99


def test_knobs_that_change_together_are_not_told_apart() -> None:
    """Both of them would else share the effect in equal parts, each with a small error."""
    random = np.random.default_rng(1)
    pairs = [(16, 8, 0), (64, 24, 0), (16, 8, 1), (64, 24, 1)] * 6
    some = [
        candidate("based", 0.2 + 0.6 * (w == 64) + 0.1 * c + 0.01 * random.normal(), window=w, dim=d, c=c)
        for w, d, c in pairs
    ]
    of_window, of_dim, of_c = effects(some, "recall")
    assert (of_window.levels, of_window.untold, of_window.importance) == ((), ("16", "64"), None)
    assert (of_dim.levels, of_dim.untold) == ((), ("8", "24"))
    assert of_c.levels[1].mean - of_c.levels[0].mean == pytest.approx(0.1, abs=0.02)
    assert of_c.untold == () and of_c.importance is not None


def test_architectures_are_apart_and_too_few_have_no_interval() -> None:
    both = [
        candidate("based", 0.5, a=1),
        candidate("based", 0.7, a=2),
        candidate("hawk", 0.1),
        candidate("x", 0.2, a=1),
    ]
    (effect,) = effects(both, "recall")
    assert effect.architecture == "based" and [level.error for level in effect.levels] == [None, None]
    assert effects([], "recall") == [] and effects(both, "unknown") == []


def test_many_values_are_taken_in_groups_and_words_by_themselves() -> None:
    random = np.random.default_rng(5)
    rates = [float(rate) for rate in 10 ** random.uniform(-4, -2, 30)]
    some = [candidate("based", r, rate=r, kind=["one", "two", None][i % 3]) for i, r in enumerate(rates)]
    of_rate, of_kind = effects(some, "recall")
    assert len(of_rate.levels) == 6 and [level.count for level in of_rate.levels] == [5] * 6
    assert of_rate.levels[0].name.startswith(f"{min(rates):.3g} to ")
    assert [level.name for level in of_kind.levels] == ["none", "one", "two"]


def test_groups_are_cut_alike_for_every_architecture() -> None:
    """So that they stand on one axis; an architecture with few values has these as levels."""
    one = [candidate("based", float(n), rate=n / 100) for n in range(1, 31)]
    other = [candidate("hawk", float(n), rate=n / 100 + 0.0001) for n in range(1, 31)]
    few = [candidate("window", float(n), rate=0.1 * n) for n in (1, 2)]
    based, hawk, window = effects([*one, *other, *few], "recall")
    assert [level.name for level in based.levels] == [level.name for level in hawk.levels]
    assert len(based.levels) == 6 and sum(level.count for level in based.levels) == 30
    assert [level.name for level in window.levels] == ["0.1", "0.2"]


def test_importances_are_fanova_s_from_enough_configurations() -> None:
    random = np.random.default_rng(7)
    some = [
        candidate("based", 0.9 * a + 0.05 * b + 0.001 * random.normal(), a=a, b=b)
        for a in range(5)
        for b in range(5)
    ]
    said = io.StringIO()
    with redirect_stderr(said):
        of_a, of_b = effects(some, "recall")
    assert of_a.importance is not None and of_b.importance is not None and said.getvalue() == ""
    assert of_a.importance > 0.8 > 0.2 > of_b.importance
    assert effects(some[:19], "recall")[0].importance is None


def test_a_value_s_importance_does_not_depend_on_its_distance_from_the_others() -> None:
    """Only the least of four windows differs: a quarter of the configurations, 1.6 % of the windows' range."""
    grid = [(w, b) for w in (16, 64, 256, 1024) for b in range(6)]
    recalls = [0.5 * (w > 16) + 0.06 * b for w, b in grid]
    some = [candidate("window", recall, w=w, b=b) for recall, (w, b) in zip(recalls, grid, strict=True)]
    of_w, of_b = effects(some, "recall")
    share = np.var([0.5 * (w > 16) for w, _ in grid]) / np.var(recalls)
    assert of_w.importance == pytest.approx(share, abs=0.05)
    assert of_b.importance == pytest.approx(1 - share, abs=0.05)


def test_of_many_configurations_some_tell_the_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(9)
    some = [candidate("based", a + 0.1 * b, a=float(a), b=float(b)) for a, b in random.uniform(0, 1, (60, 2))]
    asked = list[int]()
    fit = FanovaImportanceEvaluator.evaluate

    def evaluate(self: FanovaImportanceEvaluator, study: Study, **more: Any) -> dict[str, float]:
        asked.append(len(study.trials))
        return fit(self, study, **more)

    monkeypatch.setattr(FanovaImportanceEvaluator, "evaluate", evaluate)
    monkeypatch.setitem(effects.__globals__, "MOST_FOR_FANOVA", 25)
    of_a, of_b = effects(some, "recall")
    assert asked == [25] and of_a.importance is not None and of_b.importance is not None
    assert of_a.importance > 0.7 > of_b.importance
    assert sum(level.count for level in of_a.levels) == 60, "the means are those of all"
    assert effects(some, "recall")[0].importance == of_a.importance, "the same are drawn each time"


def test_a_figure_that_hardly_differs_has_no_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recall that all but one configuration have reached: all that are drawn may have it."""
    monkeypatch.setitem(effects.__globals__, "MOST_FOR_FANOVA", 25)
    drawn = np.random.default_rng(0).choice(60, 25, replace=False)
    odd = min({*range(60)} - {*drawn.tolist()})
    recalls = [0.5 if at == odd else 1.0 for at in range(60)]
    some = [candidate("based", recall, a=at % 4, b=at % 3) for at, recall in enumerate(recalls)]
    found = effects(some, "recall")
    assert len(found) == 2 and [effect.importance for effect in found] == [None, None]
