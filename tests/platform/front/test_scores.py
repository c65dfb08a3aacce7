"""Scores of a suite: the best configuration by validation recall, its test recall, means over settings and tasks."""

from pathlib import Path

import pytest
from rich.console import Console

from recallfront.platform.front.scores import build_scores, scores
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.load import load_study
from recallfront.sweeps.suite import Suite
from tests.platform.stores import ready_store


def trial(
    architecture: str, validation: float, test: float, *, rate: float = 1e-3, seed: int = 0, **rest: Status
) -> TrialRecord:
    return TrialRecord(
        run_id=f"{architecture}-{rate}-{seed}",
        trial_key=f"{architecture}-{rate}-{seed}",
        status=rest.get("status", Status.FINISHED),
        config={"model": {"architecture": architecture}, "training": {"learning_rate": rate}, "seed": seed},
        metrics={"validation_recall": validation, "recall": test},
    )


def suite(study: str) -> Suite:
    found = load_study(study)
    assert isinstance(found, Suite)
    return found


def sweep(*trials: TrialRecord, seeds: int = 1) -> SweepRecord:
    return SweepRecord("", "", "", {"seeds": list(range(seeds))}, trials)


def test_the_best_by_validation_is_reported_on_test() -> None:
    settings = {"copying": 2, "recall": 1}
    records = [
        (
            "copying",
            sweep(trial("hawk", 0.5, 0.9), trial("hawk", 0.6, 0.4, rate=3e-3), trial("based", 0.8, 0.7)),
        ),
        ("copying", sweep(trial("hawk", 0.7, 0.8), trial("hawk", 0.9, 0.1, rate=3e-3, status=Status.PRUNED))),
        ("recall", sweep(trial("hawk", 1.0, 1.0))),
    ]
    found = build_scores("mine", settings, records)
    assert found.table["hawk"]["copying"].recall == pytest.approx((0.4 + 0.8) / 2)
    assert found.table["hawk"]["copying"].run_ids == ("hawk-0.003-0", "hawk-0.001-0")
    assert found.means == {"hawk": pytest.approx(0.8)}, "based has not finished every task"
    assert found.missing == 2 and list(found.table) == ["hawk", "based"]
    assert found.columns() == {
        "architecture": ["hawk", "based"],
        "copying": [pytest.approx(0.6), 0.7],
        "recall": [1.0, None],
        "mean": [pytest.approx(0.8), None],
    }
    console = Console(record=True, width=100)
    console.print(found.shown())
    assert "2 settings of an architecture have not finished" in " ".join(console.export_text().split())


def test_text_beside_other_tasks_is_not_in_the_mean() -> None:
    settings = {"copying": 1, "recall": 1, "text": 1}
    records = [
        ("copying", sweep(trial("hawk", 0.5, 0.5), trial("based", 0.7, 0.7))),
        ("recall", sweep(trial("hawk", 0.7, 0.7), trial("based", 0.9, 0.9))),
        ("text", sweep(trial("hawk", 0.9, 0.9), trial("based", 0.1, 0.1))),
    ]
    found = build_scores("mine", settings, records, apart=("text",))
    assert found.means == {"based": pytest.approx(0.8), "hawk": pytest.approx(0.6)}
    assert list(found.table) == ["based", "hawk"]
    assert list(found.columns()) == ["architecture", "copying", "recall", "text", "mean without text"]


def test_the_mean_of_mad_s_suite_is_over_the_tasks_of_mad(tmp_path: Path) -> None:
    found = scores(suite("mad-suite"), ready_store(tmp_path))
    assert found.apart == ("text",) and len(found.tasks) == 7
    assert scores(suite("mad"), ready_store(tmp_path)).apart == ()


def test_a_configuration_counts_when_all_of_its_seeds_have_finished() -> None:
    trials = [
        trial("hawk", 0.9, 0.9),
        trial("hawk", 0.5, 0.6, rate=3e-3),
        trial("hawk", 0.7, 0.4, rate=3e-3, seed=1),
    ]
    found = build_scores("mine", {"recall": 1}, [("recall", sweep(*trials, seeds=2))])
    assert found.table["hawk"]["recall"].recall == pytest.approx(0.5)


def test_nothing_has_run_yet() -> None:
    found = build_scores("mine", {"recall": 1}, [])
    assert found.table == {} and found.missing == 0 and found.columns()["mean"] == []
