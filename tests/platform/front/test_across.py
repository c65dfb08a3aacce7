"""Claims over the tasks of a suite: a configuration's figures on each stand beside each other, seed by seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from recallfront.platform.front.across import across_tasks
from recallfront.platform.front.candidates import gather
from recallfront.platform.front.claims import ClaimVerdict, Judgement, judge_suite
from recallfront.platform.front.pictures.curves import scatter_picture
from recallfront.platform.metrics import named_in_condition, title_of
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.claims import Claim
from recallfront.sweeps.load import load_study
from recallfront.sweeps.suite import Part, Suite
from tests.platform.front.test_report import texts
from tests.platform.specs import TINY

RECALLS = {"attention": 0.99, "based": 0.9, "griffin": 0.7, "hawk": 0.5, "window": 0.2}
PREDICTS = {"relation": "correlation text.perplexity over mqar.test_recall"}


def trial(task: str, architecture: str, seed: int, **metrics: float) -> TrialRecord:
    # what differs between the tasks alone does not tell configurations apart
    config = {
        "model": {"architecture": architecture, "width": 32},
        "training": {"steps": len(task)},
        "seed": seed,
    }
    return TrialRecord(f"{task}-{architecture}-{seed}", "", Status.FINISHED, config, metrics)


def sweep(trials: Sequence[TrialRecord], planned: int | None = None) -> SweepRecord:
    spec = {"search": {"method": "grid"}}
    tags = {"trials_planned": str(planned or len(trials))}
    return SweepRecord("run", "key", "sweep", spec, tuple(trials), tags)


def recall(seeds: int = 3) -> SweepRecord:
    return sweep(
        [
            trial("mqar", name, seed, recall=value, validation_recall=value - 0.1)
            for name, value in RECALLS.items()
            for seed in range(seeds)
        ]
    )


def text(sign: float = -1.0, seeds: int = 3, planned: int | None = None) -> SweepRecord:
    return sweep(
        [
            trial("text", name, seed, perplexity=100 + sign * 50 * value + 0.1 * seed)
            for name, value in RECALLS.items()
            for seed in range(seeds)
        ],
        planned,
    )


def verdict(
    *sweeps: tuple[str, SweepRecord], measures: dict[str, str] = PREDICTS, condition: str = "relation <= -0.8"
) -> Judgement:
    claim = Claim(id="asked", sentence="It holds.", measures=measures, condition=condition)
    parts = tuple(Part(task, None) for task in ("mqar", "text"))  # type: ignore[arg-type]
    (judged,) = judge_suite(Suite("both", parts, claims=(claim,)), sweeps)
    return judged


def test_recall_on_one_task_predicts_another() -> None:
    judged = verdict(("mqar", recall()), ("text", text()))
    assert judged.verdict is ClaimVerdict.SUPPORTED and judged.value == pytest.approx(-1.0)
    assert set(judged.configurations) == set(RECALLS)
    against = verdict(("mqar", recall()), ("text", text(sign=1.0)))
    assert against.verdict is ClaimVerdict.CONTRADICTED and against.value == pytest.approx(1.0)


def test_figures_of_two_tasks_in_one_formula() -> None:
    measures = {
        "first": "highest mqar.test_recall where architecture == hawk",
        "second": "mean text.perplexity where architecture == hawk and mqar.test_recall >= 0.5",
    }
    judged = verdict(
        ("mqar", recall()), ("text", text()), measures=measures, condition="second * first >= 37"
    )
    assert judged.value == pytest.approx(0.5 * 75.1) and judged.verdict is ClaimVerdict.SUPPORTED


@pytest.mark.parametrize(
    ("sweeps", "status", "reason"),
    [
        ([("mqar", recall())], ClaimVerdict.NOT_TESTED, "relation: no finished trial has 'text.perplexity'"),
        (
            [("mqar", recall()), ("text", text(planned=16))],
            ClaimVerdict.UNDECIDED,
            "sweep sweep: 15 of 16 trials",
        ),
        (
            [("mqar", recall(2)), ("text", text())],
            ClaimVerdict.UNDECIDED,
            "has 2 of the 3 seeds",
        ),
    ],
    ids=["a sweep has not begun", "a trial has not ended", "too few seeds of one task"],
)
def test_what_has_not_run_decides_nothing(
    sweeps: list[tuple[str, SweepRecord]], status: ClaimVerdict, reason: str
) -> None:
    judged = verdict(*sweeps)
    assert judged.verdict is status and reason in judged.reason


def test_a_task_of_two_settings_has_their_mean() -> None:
    easy, hard = recall(), sweep([trial("mqar", name, s, recall=0.1) for name in RECALLS for s in range(3)])
    joined = across_tasks([("mqar", easy), ("mqar", hard)])
    means = {trials[0].config["model"]["architecture"]: trials[0].metrics for trials in joined}
    assert means["hawk"] == {"mqar.recall": pytest.approx(0.3)}, "one setting alone has no mean"


def test_a_mean_over_tasks_is_a_figure_as_any_other() -> None:
    copying = sweep([trial("copying", name, s, recall=0.1) for name in RECALLS for s in range(3)])
    sweeps = [("mqar", recall()), ("copying", copying), ("text", text())]
    joined = across_tasks(sweeps, ["mqar+copying"])
    means = {trials[0].config["model"]["architecture"]: trials[0].metrics for trials in joined}
    assert means["hawk"]["mqar+copying.recall"] == pytest.approx(0.3)
    assert "mqar+copying.validation_recall" not in means["hawk"], "copying has none"
    judged = verdict(
        *sweeps, measures={"relation": "correlation text.perplexity over mqar+copying.test_recall"}
    )
    assert judged.verdict is ClaimVerdict.SUPPORTED and judged.value == pytest.approx(-1.0)


def test_metrics_of_a_task_are_named_and_titled_as_in_its_sweep() -> None:
    assert named_in_condition("mqar.recall") == "mqar.validation_recall"
    assert named_in_condition("mqar.test_recall_at_64") == "mqar.recall_at_64"
    assert title_of("text.perplexity") == "text: perplexity on test"


def test_the_relation_is_drawn_with_a_mark_for_each_configuration() -> None:
    joined = across_tasks([("mqar", recall()), ("text", text())])
    figure = scatter_picture([gather(trials) for trials in joined], "mqar.recall", "text.perplexity")
    assert {*RECALLS, "mqar: recall on test", "text: perplexity on test"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("best recall.test_recall", "best is by a sweep's objective"),
        ("highest test_recall", "'test_recall' is of no task"),
        ("correlation recall.test_recall over texts.perplexity", "'texts.perplexity' is of no task"),
        ("highest recall+texts.test_recall", r"'recall\+texts.test_recall' is of no task"),
    ],
)
def test_a_measure_that_no_task_has_is_refused(tmp_path: Path, measure: str, told: str) -> None:
    raw: dict[str, Any] = {key: value for key, value in TINY.items() if key != "task"}
    claim = {"id": "asked", "sentence": "It holds.", "measures": {"it": measure}, "condition": "it >= 1"}
    raw |= {"tasks": {"recall": [{"task": TINY["task"]}]}, "claims": [claim]}
    file = tmp_path / "both.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(SpecError, match=f"claims.asked.measures.it=.*{told}"):
        load_study(str(file))


def test_a_configuration_that_one_task_has_not_finished_leaves_a_relation_undecided() -> None:
    texts_of = text()
    diverged = [
        replace(own, status=Status.DIVERGED) if "hawk" in own.run_id else own for own in texts_of.trials
    ]
    judged = verdict(("mqar", recall()), ("text", replace(texts_of, trials=tuple(diverged))))
    assert judged.verdict is ClaimVerdict.UNDECIDED
    assert judged.reason == "relation: 1 of 5 configurations that it may select has not finished (3 diverged)"
