"""A sweep against an earlier one."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from recallfront.platform import compare, pareto
from recallfront.platform.errors import UsageError
from recallfront.platform.front.front import build_front
from recallfront.platform.front.tables import comparison_table
from recallfront.platform.results.records import SweepRecord, TrialRecord

MakeRecord = Callable[..., SweepRecord]


def changed(
    record: SweepRecord, change: Callable[[TrialRecord], TrialRecord | None], **spec: Any
) -> SweepRecord:
    trials = tuple(new for trial in record.trials if (new := change(trial)) is not None)
    return replace(record, trials=trials, spec=record.spec | spec, sweep_key="cafe".ljust(64, "0"))


def with_recall(trial: TrialRecord, recall: float) -> TrialRecord:
    return replace(trial, metrics=trial.metrics | {"validation_recall": recall})


def test_a_sweep_against_itself_differs_in_nothing(record: SweepRecord) -> None:
    found = compare(record, record)
    assert found.difference == 0 and not found.is_worse(0) and found.differences == ()
    assert {row.move for row in found.rows} == {"within noise"} and len(found.rows) == 12
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]
    assert sum(row.place == "both" for row in found.rows) == len(found.before.members)


def test_new_lost_and_moved_configurations_are_told(record: SweepRecord) -> None:
    def change(trial: TrialRecord) -> TrialRecord | None:
        model = trial.config["model"]
        if model["architecture"] == "attention":
            return None
        if model["architecture"] == "window":
            return with_recall(trial, 0.97)
        return with_recall(trial, 0.2) if model["architecture"] == "hawk" else trial

    found = compare(record, changed(record, change))
    rows = {row.label: row for row in found.rows}
    assert (rows["attention"].place, rows["attention"].move, rows["attention"].after) == ("lost", "", None)
    assert (rows["window · window_size 8"].place, rows["window · window_size 8"].move) == ("new", "better")
    assert (rows["hawk"].place, rows["hawk"].move) == ("both", "worse")
    assert rows["griffin · window_size 16"].move == "within noise"
    volumes = [build_front(r).hypervolume for r in (record, changed(record, change))]
    assert found.hypervolumes == pytest.approx(volumes)
    assert found.told.startswith("hypervolume 5,296 -> ")


def test_settings_that_are_fixed_in_both_do_not_part_configurations(record: SweepRecord) -> None:
    def longer(trial: TrialRecord) -> TrialRecord:
        training = trial.config["training"] | {"steps": 600}
        return replace(trial, config=trial.config | {"training": training})

    found = compare(record, changed(record, longer, seeds=[0, 1], budget={"hours": 2}))
    assert all(row.before and row.after for row in found.rows)
    assert found.differences == (("budget.hours", "–", "2"),)


def test_a_loss_is_worse_by_more_than_a_part(record: SweepRecord) -> None:
    def slower(trial: TrialRecord) -> TrialRecord:
        rate = {"decode_tokens_per_second": 0.95 * trial.metrics["decode_tokens_per_second"]}
        return replace(trial, metrics=trial.metrics | rate)

    found = compare(record, changed(record, slower))
    assert found.change == pytest.approx(-0.05)
    assert found.is_worse(0.04) and not found.is_worse(0.06)


def test_the_interval_covers_the_true_difference(make_record: MakeRecord) -> None:
    """Two sweeps that differ by chance alone: 0 lies within the interval about 95 times of 100."""
    record, covered = make_record(), 0
    for draw in range(40):
        random = np.random.default_rng([7, draw])

        def noisy(trial: TrialRecord, random: np.random.Generator = random) -> TrialRecord:
            rate = trial.metrics["decode_tokens_per_second"]
            return replace(
                trial, metrics=trial.metrics | {"decode_tokens_per_second": rate * random.normal(1, 0.01)}
            )

        interval = compare(changed(record, noisy), changed(record, noisy)).interval
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    # 40 draws of 0.95: fewer than 33 has a probability below 0.001
    assert covered >= 33


def test_three_objectives_are_drawn_fewer_times(record: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their hypervolume takes a hundred times as long, and a page waits for it."""
    asked, hypervolume = list[int](), pareto.hypervolume

    def counted(values: pareto.FloatArray, reference: list[float]) -> float:
        asked.append(len(values))
        return hypervolume(values, reference)

    state = {"metric": "state_bytes", "direction": "min", "reference": 2e6}
    three = replace(record, spec=record.spec | {"objectives": [*record.spec["objectives"], state]})
    monkeypatch.setattr(pareto, "hypervolume", counted)
    found = compare(three, three)
    assert found.interval is not None and found.interval[0] < 0 < found.interval[1]
    assert len(asked) < 1000


def test_other_objectives_cannot_be_compared(record: SweepRecord) -> None:
    other = changed(record, lambda t: t, objectives=record.spec["objectives"][:1])
    with pytest.raises(
        UsageError, match="have other objectives: recall .max., decode_tokens_per_second .max. and"
    ):
        compare(record, other)


def test_as_table_csv_and_json(record: SweepRecord) -> None:
    found = compare(record, changed(record, lambda t: t, name="[red]evil[/red]"))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(found))
    printed = console.export_text()
    assert "hawk" in printed and "within noise" in printed and "attention" in printed
    lines = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert len(lines) == 12 and {line["place"] for line in lines} == {"both", "neither"}
    assert float(lines[0]["validation_recall_a"]) == float(lines[0]["validation_recall_b"])
    document = json.loads(found.to_json())
    assert document["difference"] == 0 and document["differences"][0]["key"] == "name"


def test_an_empty_sweep_has_no_interval_of_its_own(make_record: MakeRecord) -> None:
    found = compare(make_record(0), make_record(0))
    assert (found.difference, found.interval, found.rows) == (0, None, ())
    assert compare(make_record(0), make_record()).change == float("inf")
    json.loads(compare(make_record(0), make_record()).to_json())


def test_one_seed_tells_no_noise_of_recall(make_record: MakeRecord) -> None:
    """A throughput has a spread of its own with one seed too, recall has none: it is unknown, not 0."""
    both = make_record()
    first = replace(both, trials=tuple(t for t in both.trials if t.config["seed"] == 0))
    lower = changed(first, lambda trial: with_recall(trial, 0.9 * trial.metrics["validation_recall"]))
    for before, after in ((first, lower), (first, both), (both, lower)):
        found = compare(before, after)
        assert found.interval is None and "no interval: recall has one seed" in found.told
        assert {row.move for row in found.rows} == {"one seed"}
    found = compare(first, lower)
    assert found.change == pytest.approx(-0.1) and found.is_worse(0.05), "figures as measured are judged"
    assert {line["move"] for line in csv.DictReader(io.StringIO(found.as_csv()))} == {"one seed"}
    document = json.loads(found.to_json())
    assert (document["interval"], document["unsure"]) == (None, "recall has one seed")
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(found))
    assert "one seed" in console.export_text()


def test_one_seed_far_below_the_front_leaves_the_interval(record: SweepRecord) -> None:
    def fewer(trial: TrialRecord) -> TrialRecord | None:
        model = trial.config["model"]
        alone = model["architecture"] == "window" and model["window_size"] == 8
        return None if alone and trial.config["seed"] else trial

    found = compare(changed(record, fewer), record)
    assert found.interval is not None
    rows = {row.label: row for row in found.rows}
    assert rows["window · window_size 8"].move == "one seed"
    assert rows["window · window_size 16"].move == "within noise"


def test_the_interval_takes_off_what_noise_adds_to_a_hypervolume(record: SweepRecord) -> None:
    """The second sweep has more noise, by which a best value seems better: plain percentiles add it once more."""

    def rough(trial: TrialRecord) -> TrialRecord:
        step = 0.06 if trial.config["seed"] else -0.06
        return with_recall(trial, trial.metrics["validation_recall"] + step)

    found = compare(record, changed(record, rough))
    assert found.interval is not None and found.difference == pytest.approx(0, abs=1e-9)
    assert found.interval[0] < 0 < found.interval[1] and sum(found.interval) < 0
