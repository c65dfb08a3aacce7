"""Training of every architecture: reports, resuming, failures; each on this one process."""

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from recallfront.models import load
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.results.reports import MetricRow, Report
from recallfront.platform.results.status import Status
from recallfront.platform.trial import body
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.engine import learning_rate_ratio
from recallfront.platform.trial.training import Training, has_stopped_learning
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare
from recallfront.sweeps.trial import PlateauConfig
from tests.platform.specs import SEGMENT, tiny
from tests.platform.trial import trials
from tests.platform.trial.blocks import BLOCKS
from tests.platform.trial.trials import rows_of, run, setting

pytestmark = trials.MARKS


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_every_architecture_trains(tmp_path: Path, name: str, precision: str) -> None:
    reports = run(tmp_path, space=[BLOCKS[name]], training={"precision": precision, "steps": 12})
    last = reports[-1]
    assert last.status is Status.FINISHED, last.traceback
    losses = [value for _, value in rows_of(reports, "loss")]
    assert len(losses) == 12 and all(map(math.isfinite, losses)) and losses[-1] < losses[0] + 0.5
    assert 0 <= last.figures["recall"] <= 1 and last.figures["parameters"] > 0
    assert last.weights is not None
    saved = load(Path(last.weights))
    assert sum(p.numel() for p in saved.parameters()) == last.figures["parameters"]


def test_what_a_trial_reports(tmp_path: Path) -> None:
    config, place = setting(tmp_path, training={"warmup_steps": 5})
    reports = list(run_trial(config, place))
    assert [report.step for report in reports] == [0, 10, 20]
    assert "decode_tokens_per_second" in reports[0].figures, "measured first, trained second"
    assert "validation_recall" not in reports[0].figures
    assert [step for step, _ in rows_of(reports, "loss")] == list(range(1, 21))
    assert rows_of(reports, "learning_rate") == [
        (at, config.training.learning_rate * learning_rate_ratio(config.training, at - 1))
        for at in range(1, 21)
    ]
    assert [step for step, _ in rows_of(reports, "validation_recall")] == [10, 20]
    final = reports[-1]
    assert {
        "recall",
        "test_loss",
        "validation_recall",
        "validation_loss",
        "state_bytes",
        "materialised_state_bytes",
        "parameters",
    } <= set(final.figures)
    assert {"train_seconds", "evaluate_seconds", "measure_seconds", "wait_seconds"} <= set(final.figures)
    assert Report.from_json(json.loads(json.dumps(final.to_json()))) == final


def test_zoologys_protocol_from_end_to_end(tmp_path: Path) -> None:
    """256 rows are five batches of 48 and one of 16; the rate falls from epoch to epoch."""
    training = {"steps": 12, "batch_size": 48, "evaluate_every": 6, "learning_rate": 0.01}
    reports = run(tmp_path, protocol="zoology", space=[{"architecture": "attention"}], training=training)
    assert reports[-1].status is Status.FINISHED, reports[-1].traceback
    rates = [value for _, value in rows_of(reports, "learning_rate")]
    assert rates == pytest.approx([0.01] * 6 + [0.005] * 6)
    assert 0 <= reports[-1].figures["recall"] <= 1


def test_an_ended_trial_only_says_how(tmp_path: Path) -> None:
    config, place = setting(tmp_path)
    first = list(run_trial(config, place))
    (again,) = run_trial(config, place)
    assert again.status is Status.FINISHED and again.figures == first[-1].figures
    assert rows_of([again], "loss") == rows_of(first, "loss"), "what its driver may not have heard"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])  # test_engine has them all
def test_a_resumed_trial_ends_as_an_undisturbed_one(tmp_path: Path, stage: int) -> None:
    dropping = {"attention_dropout": 0.1, "embedding_dropout": 0.1}
    settings = {
        "training": {"zero_stage": stage, "steps": 30},
        "space": [{"architecture": "window", "window_size": 4, **dropping}],
    }
    whole = run(tmp_path / "whole", **settings)
    config, place = setting(tmp_path / "resumed", **settings)
    interrupted = run_trial(config, place)
    for report in interrupted:
        if report.step == 20:
            interrupted.close()
    rest = list(run_trial(config, place))
    assert rest[1].step == 20
    for metric in ("loss", "learning_rate", "validation_recall", "validation_loss"):
        assert rows_of(rest, metric) == rows_of(whole, metric)
    assert rest[-1].figures["recall"] == whole[-1].figures["recall"]
    assert not (place.folder(config) / "checkpoint").exists()


@pytest.mark.parametrize("at", [13, 20], ids=["within an interval", "at an evaluation"])
def test_a_trial_that_is_told_to_leave_is_saved_there_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Though no checkpoint is due; whoever goes on ends as an undisturbed trial, every row told once."""
    settings = {"training": {"steps": 30, "checkpoint_seconds": 1e6}}
    whole = run(tmp_path / "whole", **settings)
    config, place = setting(tmp_path / "told", **settings)
    told, train_step = Event(), Training._train_step

    def step(training: Training, *rows: Any) -> Any:
        if training.step == at - 1:
            told.set()
        return train_step(training, *rows)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_step", step)
        *_, last = run_trial(config, place, told)
    assert last.status is Status.LOST
    assert last.failure == f"its process was asked to end; it is saved at step {at} of 30"
    rest = list(run_trial(config, place))
    assert rest[1].step == at
    for metric in ("loss", "learning_rate", "validation_recall", "validation_loss"):
        assert rows_of(rest, metric) == rows_of(whole, metric)
    assert rest[-1].figures["recall"] == whole[-1].figures["recall"]


def test_a_trial_that_diverges_says_at_which_step(tmp_path: Path) -> None:
    reports = run(tmp_path, training={"learning_rate": 1e6, "gradient_clipping": 0.0, "steps": 60})
    assert reports[-1].status is Status.DIVERGED
    assert reports[-1].failure and "loss is" in reports[-1].failure and "of 60" in reports[-1].failure
    assert "decode_tokens_per_second" in reports[-1].figures and reports[-1].traceback is None


def test_a_trial_over_its_limit_says_where_it_was(tmp_path: Path) -> None:
    last = run(tmp_path, training={"steps": 10**6}, resources={"time_limit_seconds": 1.0})[-1]
    assert last.status is Status.TIMEOUT
    assert last.failure and "exceeded the time limit of 1 s at step" in last.failure


def test_a_solved_trial_is_finished_before_its_last_step(tmp_path: Path) -> None:
    reports = run(tmp_path, training={"steps": 40, "stop_at": {"recall": 1e-9}, "learning_rate": 0.01})
    solved = next(r.step for r in reports if r.figures.get("validation_recall", 0.0) > 0)
    last = reports[-1]
    assert last.status is Status.FINISHED and last.step == solved < 40
    assert "recall" in last.figures and last.weights is not None


def test_whether_a_trial_is_over_is_not_read_from_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Rows(list[MetricRow]):
        def __iter__(self) -> Iterator[MetricRow]:
            read.append(len(self))
            return super().__iter__()

    resume = Training._resume

    def resumed(training: Training) -> None:
        resume(training)
        training.history = Rows(training.history)

    monkeypatch.setattr(Training, "_resume", resumed)
    for settings in ({}, {"stop_at": {"recall": 1.0}}):
        last = run(tmp_path, training={"steps": 40, "checkpoint_seconds": 3600, **settings})[-1]
        assert last.status is Status.FINISHED
        assert set(read) <= {2 * 40 + 3 * 4}, "those of 40 steps and 4 evaluations, once it has ended"


def test_a_resumed_trial_knows_how_long_it_has_learned_nothing(tmp_path: Path) -> None:
    training = {"steps": 100, "learning_rate": 1e-12, "plateau": {"evaluations": 2}}
    config, place = setting(tmp_path, training=training)
    interrupted = run_trial(config, place)
    for report in interrupted:
        if report.step == 20:
            interrupted.close()
    last = list(run_trial(config, place))[-1]
    assert last.status is Status.FINISHED and last.step == 30


@pytest.mark.parametrize(
    ("recall", "loss", "is_over"),
    [
        ([0.1, 0.5, 0.5, 0.5], [3.0, 2.0, 2.0, 2.0], True),
        ([0.1, 0.5, 0.5], [3.0, 2.0, 2.0], False),
        ([0.1, 0.5, 0.5, 0.51], [3.0, 2.0, 2.0, 2.0], False),
        ([0.0, 0.0, 0.0, 0.0], [3.0, 2.9, 2.8, 2.7], False),
        ([0.4, 0.5, 0.2, 0.3], [3.0, 2.0, 2.5, 2.4], True),
    ],
    ids=["flat", "too few", "recall rises", "recall is flat and loss falls", "worse again"],
)
def test_learning_has_stopped_if_neither_recall_nor_loss_gains(
    recall: list[float], loss: list[float], is_over: bool
) -> None:
    assert has_stopped_learning(PlateauConfig(evaluations=2), recall, loss) == is_over


def test_data_that_is_not_the_expected_is_an_error(tmp_path: Path) -> None:
    config, place = setting(tmp_path)
    other = Workplace(**{**vars(place), "data_digest": "0" * 64})
    (report,) = run_trial(config, other)
    assert report.status is Status.ERROR and "content digest" in str(report.failure)
    assert "Traceback" in str(report.traceback)


@pytest.mark.slow
def test_accumulation_changes_little_and_slices_are_reported(tmp_path: Path) -> None:
    segments = [SEGMENT | {"examples": 64}, {"input_seq_len": 12, "num_kv_pairs": 1, "examples": 64}]
    task = {"train": segments, "test": segments, "validation": segments}
    whole = run(tmp_path / "a", task=task)
    parts = run(tmp_path / "b", task=task, training={"accumulation": 4})
    first, second = (rows_of(reports, "loss")[0][1] for reports in (whole, parts))
    assert second == pytest.approx(first, rel=1e-5)
    figures = whole[-1].figures
    mean = (2 * figures["recall_length_16_pairs_2"] + figures["recall_length_12_pairs_1"]) / 3
    assert figures["recall"] == pytest.approx(mean)


@pytest.mark.slow
def test_seeds_differ_and_nothing_depends_on_what_ran_before(tmp_path: Path) -> None:
    config, place = setting(tmp_path)
    other = config.model_copy(update={"seed": 1})
    first = rows_of(list(run_trial(config, place)), "loss")
    different = rows_of(list(run_trial(other, place)), "loss")
    fresh = Workplace(**{**vars(place), "scratch": "again"})
    assert rows_of(list(run_trial(config, fresh)), "loss") == first != different


def test_a_step_that_ruins_the_weights_is_no_result(tmp_path: Path) -> None:
    last = run(tmp_path, training={"steps": 1, "learning_rate": 1e30, "schedule": "constant"})[-1]
    assert last.status is Status.DIVERGED and "at step 1" in str(last.failure)


def test_what_the_machine_does_to_a_trial_is_not_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(body, "save_model", full)
    last = run(tmp_path)[-1]
    assert last.status is Status.LOST and last.failure == os.strerror(errno.ENOSPC)


def test_a_text_trial_reports_perplexities_and_resumes_with_the_same_rows(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten".split()
    lines = (" ".join(words[(line * step) % 10] for step in range(30)) for line in range(60))
    (tmp_path / "text.txt").write_text("\n".join(f"{number} {line}" for number, line in enumerate(lines)))
    rows = {"tokens": 200}
    task = {
        "name": "text",
        "source": {"files": str(tmp_path / "text.txt"), "documents": "line"},
        "length": 16,
        "held_out": 0.2,
        "validation": [rows],
        "test": [rows, {"length": 32, "stride": 8, "tokens": 200}],
    }
    trained = tiny(training={"steps": 6, "evaluate_every": 3})
    spec = SweepSpec.model_validate(trained | {"task": task, "space": [{"architecture": "hawk"}]})
    path, digest = prepare(spec.task, tmp_path / "data")
    block, knobs = next(spec.grid())
    config = spec.trial(block, knobs, 0)

    def place(home: Path) -> Workplace:
        return Workplace(home=home, data=path, data_digest=digest, code_version=code_version())

    whole = list(run_trial(config, place(tmp_path / "whole")))
    last = whole[-1]
    assert last.status is Status.FINISHED, last.traceback
    figures = last.figures
    assert figures["perplexity"] == pytest.approx(math.exp(figures["test_loss"]))
    assert figures["bits_per_byte"] == pytest.approx(figures["test_loss"] / math.log(2), rel=0.1)
    assert {"recall", "perplexity_ar_hits", "perplexity_sliding_at_32", "loss_at_position_8"} <= set(figures)
    interrupted = run_trial(config, place(tmp_path / "resumed"))
    for report in interrupted:
        if report.step == 3:
            interrupted.close()
    rest = list(run_trial(config, place(tmp_path / "resumed")))
    assert rows_of(rest, "loss") == rows_of(whole, "loss") and rest[-1].figures["recall"] == figures["recall"]
