"""Fronts from records: what is gathered, what is left out, what is sure, and how it is told."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from recallfront.platform import front
from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front, build_front, hypervolume_of
from recallfront.platform.front.history import devices, hypervolume_history
from recallfront.platform.front.tables import FrontTable, as_csv
from recallfront.platform.metrics import columns_of, show
from recallfront.platform.results.knobs import flat_knobs
from recallfront.platform.results.labels import architecture_of, varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status

SPEC = {
    "objectives": [
        {"metric": "recall", "direction": "max", "reference": 0.1},
        {"metric": "decode_tokens_per_second", "direction": "max", "reference": 100.0},
    ]
}


def trial(
    name: str,
    recall: float,
    speed: float,
    *,
    seed: int = 0,
    status: Status = Status.FINISHED,
    start: float = 0.0,
    seconds: float = 36.0,
    spread: float = 10.0,
    state: float = 4096,
    resources: dict[str, Any] | None = None,
    **model: Any,
) -> TrialRecord:
    """A trial whose test recall lies 0.01 below its validation recall."""
    architecture = name.split("-")[0]
    return TrialRecord(
        run_id=f"{name}-{seed}",
        trial_key=f"key-{name}-{seed}",
        status=status,
        config={
            "model": {"architecture": architecture, "width": 64, "pattern": architecture[0].upper()} | model,
            "training": {"learning_rate": 3e-3, "betas": [0.9, 0.999]},
            "resources": resources or {"workers": 1, "cpus": 1.0, "gpus": 0.0},
            "seed": seed,
        },
        metrics={
            "recall": recall - 0.01,
            "validation_recall": recall,
            "decode_tokens_per_second": speed,
            "decode_tokens_per_second_spread": spread,
            "state_bytes": state,
        },
        tags={"steps": "40"},
        start_time=start,
        end_time=None if status is Status.RUNNING else start + seconds,
    )


def sweep(*trials: TrialRecord, spec: dict[str, Any] = SPEC) -> SweepRecord:
    return SweepRecord(run_id="parent", sweep_key="abc", name="study", spec=spec, trials=trials)


@pytest.fixture
def record() -> SweepRecord:
    return sweep(
        trial("attention", 0.99, 1000, start=0),
        trial("window-8", 0.45, 4000, start=40, window_size=8),
        trial("window-16", 0.75, 3000, start=80, window_size=16),
        trial("based-8", 0.70, 2500, start=120, feature_dim=8, window_size=4),
        trial("based-4", 0.90, 9000, start=160, status=Status.PRUNED, feature_dim=4, window_size=8),
        trial("hawk", 0.95, 9000, start=200, status=Status.DIVERGED),
        trial("grouped-8", 0.9, 2000, start=240, group_size=8),
        trial("grouped-16", 0.95, 9000, start=280, group_size=16, status=Status.RUNNING),
    )


def by_label(found: Front) -> dict[str, Candidate]:
    return {candidate.label: candidate for candidate in found.candidates}


def test_only_finished_trials_are_candidates(record: SweepRecord) -> None:
    found = build_front(record)
    assert [c.label for c in found.candidates] == [
        "attention",
        "grouped · group_size 8",
        "based · window_size 4 · feature_dim 8",
        "window · window_size 16",
        "window · window_size 8",
    ]
    assert [c.architecture for c in found.members] == ["attention", "grouped", "window", "window"]
    assert not by_label(found)["based · window_size 4 · feature_dim 8"].on_front
    assert found.reference == (0.1, 100.0)
    # strips of the staircase above (0.1, 100), from the fastest down
    area = 0.35 * 3900 + 0.30 * 2900 + 0.15 * 1900 + 0.09 * 900
    assert found.hypervolume == pytest.approx(area)
    assert found.knee is not None and found.knee.label == "window · window_size 16"
    assert found.knee.contribution == pytest.approx(0.30 * 1000)


def test_the_front_is_selected_on_validation_recall(record: SweepRecord) -> None:
    flattering = trial("based-8", 0.70, 2500, feature_dim=8, window_size=4)
    flattering.metrics["recall"] = 1.0
    found = build_front(sweep(*record.trials[:3], flattering))
    assert "based" not in [c.architecture for c in found.members]


def test_seeds_are_taken_together() -> None:
    seeds = [trial("hawk", r, v, seed=s) for s, (r, v) in enumerate([(0.6, 900), (0.8, 1000), (0.7, 1200)])]
    (candidate,) = build_front(sweep(*seeds)).candidates
    assert candidate.metrics["validation_recall"] == pytest.approx(0.7)
    assert candidate.spreads["validation_recall"] == pytest.approx(0.1)
    assert candidate.metrics["decode_tokens_per_second"] == 1000  # the median
    assert candidate.spreads["decode_tokens_per_second"] == 150  # seeds differ by more than each one's own 10
    assert candidate.run_ids == ("hawk-1", "hawk-2", "hawk-0")  # best validation recall first
    assert candidate.trial_keys == ("key-hawk-1", "key-hawk-2", "key-hawk-0")
    assert candidate.n_seeds == 3 and candidate.on_front and candidate.certain


def test_one_seed_has_no_spread_of_recall_and_a_seed_counts_once() -> None:
    again = trial("hawk", 0.7, 1000)
    (candidate,) = build_front(sweep(again, again)).candidates
    assert candidate.n_seeds == 1
    assert "validation_recall" not in candidate.spreads
    assert candidate.spreads["decode_tokens_per_second"] == 10
    assert candidate.describe("validation_recall") == "0.700"
    assert candidate.describe("decode_tokens_per_second") == "1,000 ±10"
    assert candidate.describe("prefill_tokens_per_second") == "–"


def test_a_place_is_uncertain_when_the_spreads_could_change_it() -> None:
    def both(name: str, recall: float, speed: float, **model: Any) -> list[TrialRecord]:
        return [trial(name, recall + d, speed, seed=i, **model) for i, d in enumerate((-0.02, 0.02))]

    found = by_label(
        build_front(
            sweep(
                *both("attention", 0.99, 1000),
                *both("window-8", 0.70, 2000, window_size=8),
                *both("window-16", 0.69, 1995, window_size=16),
                *both("hawk", 0.3, 500),
            )
        )
    )
    placed = {label: (c.on_front, c.certain) for label, c in found.items()}
    assert placed == {
        "attention": (True, True),
        "window · window_size 8": (True, False),
        "window · window_size 16": (False, False),
        "hawk": (False, True),
    }


def test_of_a_configuration_that_misses_a_seed_nothing_is_sure() -> None:
    """Early stopping keeps the luckier seeds: a mean over what is left is biased."""
    both = [trial("hawk", 0.6, 900, seed=seed) for seed in (0, 1)]
    found = by_label(build_front(sweep(trial("attention", 0.99, 500), *both, spec=SPEC | {"seeds": [0, 1]})))
    assert {label: (c.on_front, c.certain) for label, c in found.items()} == {
        "attention": (True, False),
        "hawk": (True, True),
    }


def test_no_place_is_sure_with_seeds_missing_or_a_measurement_in_doubt() -> None:
    """What halving keeps of a configuration is its luckier seed; a busy machine gave spreads of 240 %."""

    def both(name: str, recall: float, speed: float, spread: float = 10.0, **model: Any) -> list[TrialRecord]:
        return [trial(name, recall, speed, seed=seed, spread=spread, **model) for seed in (0, 1)]

    beside_load = both("griffin", 0.4, 4000)
    for noisy in beside_load:
        noisy.metrics["busy_cores"] = 1.5
    wide = both("based-8", 0.6, 2000, spread=70.0, feature_dim=8)
    tolerant = both("based-4", 0.5, 3000, spread=70.0 * 1.5, feature_dim=4)
    for patient in tolerant:
        patient.config["measurement"] = {"target_spread": 0.2}
    trials = [*both("attention", 0.99, 1000), *wide, *tolerant, *beside_load, *both("hawk", 0.3, 5000)[:1]]
    found = build_front(sweep(*trials, spec=SPEC | {"seeds": [0, 1]}))
    assert {
        c.architecture + str(c.knobs.get("feature_dim", "")): (c.certain, c.doubts) for c in found.members
    } == {
        "attention": (True, ()),
        "based8": (False, ("decode tokens/s varied by 4 %",)),
        "based4": (True, ()),
        "griffin": (False, ("measured beside other work on 1.5 cores",)),
        "hawk": (False, ("1 of 2 seeds",)),
    }
    assert "No place is sure with seeds missing" in printed(found) and "  1 of 2 seeds" in printed(found)
    smaller = {"metric": "state_bytes", "direction": "min", "reference": 8192.0}
    without = build_front(
        sweep(*beside_load, spec={"objectives": [SPEC["objectives"][0], smaller], "seeds": [0, 1]})
    )
    assert without.members[0].doubts == (), "no throughput is compared"


def test_a_run_without_every_objective_is_left_out_and_told(record: SweepRecord) -> None:
    broken = trial("hawk", float("nan"), 9000)
    found = build_front(sweep(*record.trials, broken))
    assert found.left_out == ("hawk-0",)
    assert "hawk" not in by_label(found)
    assert "1 finished runs lack" in printed(found)


def test_objectives_to_minimise_and_a_third_one(record: SweepRecord) -> None:
    smaller = {"metric": "state_bytes", "direction": "min", "reference": 8192.0}
    objectives = [*SPEC["objectives"], smaller]
    found = build_front(
        sweep(*record.trials, trial("hawk", 0.2, 500, state=64), spec={"objectives": objectives})
    )
    assert "hawk" in [c.architecture for c in found.members]  # for its small state
    pair = build_front(sweep(*record.trials, spec={"objectives": [objectives[0], smaller]}))
    assert [c.architecture for c in pair.members] == ["attention"]
    assert pair.hypervolume == pytest.approx(0.89 * 4096)


def test_an_empty_sweep_has_an_empty_front() -> None:
    found = build_front(sweep())
    assert (found.candidates, found.members, found.hypervolume, found.knee) == ((), (), 0.0, None)
    assert json.loads(found.to_json())["candidates"] == []
    assert len(as_csv(found).splitlines()) == 1
    assert "0 of 0 configurations" in printed(found)


def test_knobs_are_what_tells_configurations_apart(record: SweepRecord) -> None:
    # pattern differs between architectures but says nothing more; width and betas never differ
    assert varying_knobs(record.trials) == ("window_size", "feature_dim", "group_size")
    rates = [trial("hawk", 0.5, 100), trial("hawk", 0.6, 100)]
    rates[1].config["training"]["learning_rate"] = 1e-3
    assert [c.label for c in build_front(sweep(*rates)).candidates] == [
        "hawk · training.learning_rate 0.003",
        "hawk · training.learning_rate 0.001",
    ]


def test_trials_that_were_impossible_or_are_too_new_to_have_a_config_do_no_harm(record: SweepRecord) -> None:
    settings = {"architecture": "window", "window_size": 0, "training.steps": 5, "seed": 0}
    impossible = TrialRecord("i", "k", Status.INVALID, settings, {}, end_time=1.0)
    new = TrialRecord("n", "l", Status.RUNNING, {}, {})
    found = build_front(sweep(*record.trials, impossible, new))
    assert [c.label for c in found.candidates] == [c.label for c in build_front(record).candidates]
    assert architecture_of(impossible) == "window" and architecture_of(new) == "unknown"
    assert flat_knobs(settings) == {"window_size": 0, "training.steps": 5}
    assert len(hypervolume_history(sweep(*record.trials, impossible, new))) == 5


def test_a_sweep_without_its_specification_is_told_as_such() -> None:
    with pytest.raises(UsageError, match="no specification in the store yet"):
        build_front(sweep(spec={}))


@pytest.mark.parametrize("objectives", [7, [{"metric": "recaln"}], [{"metric": "recall", "direction": "up"}]])
def test_objectives_that_cannot_be_read_are_told_as_such(objectives: object) -> None:
    with pytest.raises(UsageError, match="the objectives of the sweep cannot be read: the store's spec.json"):
        build_front(sweep(spec={"objectives": objectives}))


def test_json_and_csv_hold_the_same_front(record: SweepRecord) -> None:
    found = build_front(record)
    document = json.loads(found.to_json())
    assert document["hypervolume"] == found.hypervolume
    assert document["knee"] == "window-16-0"
    assert document["objectives"][0] == SPEC["objectives"][0]
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["run_ids"].split() for row in rows] == [c["run_ids"] for c in document["candidates"]]
    assert [row["on_front"] == "True" for row in rows] == [c["on_front"] for c in document["candidates"]]
    assert [float(row["validation_recall"]) for row in rows] == [0.99, 0.9, 0.7, 0.75, 0.45]
    assert rows[0]["window_size"] == "" and rows[-1]["window_size"] == "8"
    assert rows[0]["decode_tokens_per_second_spread"] == "10.0"


def printed(found: Front, *, width: int = 160, **options: bool) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(FrontTable(found, **options))
    return console.export_text()


def test_the_table_tells_places_and_figures(record: SweepRecord) -> None:
    text = printed(build_front(record))
    assert "● knee" in text
    assert "hypervolume 2,601 against recall 0.1, decode tokens/s 100" in " ".join(text.split())
    row = next(line for line in text.splitlines() if "attention" in line)
    assert "recall" in text and "on test" in text
    assert "0.990" in row and "0.980" in row and "1,000 ±10" in row and "4.0 KiB" in row
    assert "based" in text
    assert "based" not in printed(build_front(record), members_only=True)


@pytest.mark.parametrize("width", [160, 100, 80, 72, 60, 40, 20])
def test_a_narrow_terminal_shows_every_configuration_and_figure(record: SweepRecord, width: int) -> None:
    """Nothing is cut: below the least width of columns, figures are below the names."""
    seeds = [trial("hawk", r, 1000, seed=s) for s, r in enumerate([0.8123, 0.6])]
    found = build_front(replace(record, trials=(*record.trials, *seeds)))
    text = printed(found, width=width)
    assert max(map(len, text.splitlines())) <= width
    whole = re.sub(r"\s", "", text)
    for candidate in found.candidates:
        for told in (candidate.architecture, *map(candidate.describe, columns_of(found.objectives))):
            assert all(re.sub(r"\s", "", part) in whole for part in told.split(" ±")), told
    assert "…" not in text and "offit,perhapsonit" in whole


def test_a_name_with_markup_is_printed_as_it_is() -> None:
    assert "[red]x" in printed(build_front(sweep(trial("[red]x", 0.5, 200))))


def test_front_takes_a_record_as_it_is(record: SweepRecord) -> None:
    assert front(record).to_json() == build_front(record).to_json()


def test_history_counts_trials_hours_and_device_hours(record: SweepRecord) -> None:
    rows = hypervolume_history(record)
    assert [row.run_id for row in rows] == [
        "attention-0",
        "window-8-0",
        "window-16-0",
        "based-8-0",
        "grouped-8-0",
    ]
    assert [row.trials for row in rows] == [1, 2, 3, 4, 5]
    assert [row.hours for row in rows] == pytest.approx([t / 3600 for t in (36, 76, 116, 156, 276)])
    # the pruned and the diverged trial cost device time and steps too
    assert [row.steps for row in rows] == [40, 80, 120, 160, 280]
    assert [row.device_hours for row in rows] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.07])
    volumes = [row.hypervolume for row in rows]
    assert volumes == sorted(volumes)
    assert volumes[0] == pytest.approx(0.89 * 900)
    assert volumes[-1] == pytest.approx(build_front(record).hypervolume)


def test_history_takes_seeds_together_as_the_front_does() -> None:
    seeds = [trial("hawk", r, 1000, seed=s, start=100 * s) for s, r in enumerate([0.8, 0.6])]
    record = sweep(*seeds)
    rows = hypervolume_history(record)
    assert [row.hypervolume for row in rows] == pytest.approx([0.7 * 900, 0.6 * 900])
    assert rows[-1].hypervolume == pytest.approx(build_front(record).hypervolume)
    assert hypervolume_history(sweep()) == []


def test_front_and_history_hold_the_newest_code_alone(record: SweepRecord) -> None:
    old = replace(trial("hawk", 1.0, 9000), tags={"code_version": "old"})
    mixed = sweep(old, *record.trials)
    assert build_front(mixed) == build_front(record)
    assert hypervolume_history(mixed) == hypervolume_history(record)


def test_devices_are_gpus_where_there_are_any() -> None:
    assert devices(trial("hawk", 1, 1, resources={"workers": 4, "cpus": 8.0, "gpus": 1.0})) == 4
    assert devices(trial("hawk", 1, 1, resources={"workers": 2, "cpus": 3.0, "gpus": 0.0})) == 6
    assert devices(trial("hawk", 1, 1, resources={"workers": 1, "cpus": 3.0, "gpus": 0.25})) == 0.25


@pytest.mark.parametrize(
    ("metric", "value", "spread", "text"),
    [
        ("recall", 0.98765, 0.0042, "0.988 ±0.004"),
        ("recall", 1.0, None, "1.000"),
        ("recall", 1.0, 0.0, "1.000 ±0.000"),
        ("decode_tokens_per_second", 123456.7, 89.4, "123,457 ±89"),
        ("decode_tokens_per_second", 95.33, 1.26, "95.3 ±1.3"),
        ("state_bytes", 512, None, "512 B"),
        ("state_bytes", 20480, None, "20.0 KiB"),
        ("state_bytes", 3 * 2**40, None, "3072.0 GiB"),
        ("parameters", 18, None, "18"),
    ],
)
def test_show(metric: str, value: float, spread: float | None, text: str) -> None:
    assert show(metric, value, spread) == text


def test_the_hypervolume_alone_is_the_front_s(make_record: Callable[..., SweepRecord]) -> None:
    for record in (make_record(), make_record(5, (Status.PRUNED, Status.RUNNING)), make_record(0)):
        assert hypervolume_of(record) == build_front(record).hypervolume
