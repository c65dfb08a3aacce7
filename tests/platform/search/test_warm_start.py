"""A search that learns from the finished trials of an earlier sweep."""

from dataclasses import replace
from typing import Any

import pytest

from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.warm_start import earlier_trials
from recallfront.sweeps import SweepSpec
from tests.platform.specs import tiny_spec

RATES = [0.0005, 0.001, 0.002, 0.01, 0.02, 0.05]
OTHER_MACHINE = 10.0  # times as fast


def spec_of(**changes: Any) -> SweepSpec:
    block = {"architecture": "window", "window_size": [2, 4, 8], "training.learning_rate": RATES}
    search = {"method": "front", "trials": 10, "startup_trials": 6, "warm_start": "before"}
    return tiny_spec(**{"space": [block], "search": search} | changes)


def decode_of(window_size: int) -> float:
    return 1000.0 / window_size


def earlier(status: Status = Status.FINISHED, **changes: Any) -> SweepRecord:
    """A grid in which windows recall by their size, and nothing at a learning rate below 0.01."""
    block = {"architecture": "window", "window_size": [2, 4, 8, 16], "training.learning_rate": RATES[::2]}
    spec = tiny_spec(**{"space": [block]} | changes)
    trials = []
    for number, (own, knobs) in enumerate(spec.grid()):
        config = spec.trial(own, knobs, 7)
        size, rate = int(str(knobs["window_size"])), float(str(knobs["training.learning_rate"]))
        recall = size / 16 if rate >= 0.01 else 0.01
        metrics = {
            "validation_recall": recall,
            "decode_tokens_per_second": OTHER_MACHINE * decode_of(size),
        }
        record = TrialRecord(
            str(number), config.key, status, config.model_dump(mode="json"), metrics, start_time=number
        )
        trials.append(record)
    return SweepRecord(run_id="r", sweep_key="k", name="before", spec={}, trials=tuple(trials))


def test_what_was_learned_before_is_not_drawn_at_random() -> None:
    spec = spec_of()
    found = earlier_trials(spec, earlier())
    assert len(found) == 12 and found[-1].knobs["window_size"] == 16, "also outside of the new space"
    search = FrontSearch(spec, earlier=found)
    rates = [p.knobs["training.learning_rate"] for _ in range(4) if (p := search.ask()) is not None]
    assert min(float(str(rate)) for rate in rates) >= 0.01
    alone = FrontSearch(spec)
    drawn = [p.knobs["training.learning_rate"] for _ in range(6) if (p := alone.ask()) is not None]
    assert min(float(str(rate)) for rate in drawn) < 0.01


def test_throughputs_of_another_machine_are_scaled_by_those_of_this_one() -> None:
    spec = spec_of()
    search = FrontSearch(spec, earlier=earlier_trials(spec, earlier()))
    metric = "decode_tokens_per_second"
    assert max(search._shapes._figures(metric).values()) == OTHER_MACHINE * decode_of(2)
    one = next(c for c in search._all if c.knobs["window_size"] == 4)
    search._measured(one, {metric: decode_of(4)})
    assert sorted(search._shapes._figures(metric).values()) == pytest.approx(
        [decode_of(16), decode_of(8), decode_of(4), decode_of(2)]
    )


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (earlier(Status.PRUNED), "no trial of that sweep has finished"),
        (earlier(training={"steps": 40}), "they differ in training.steps, which is not a knob"),
        (earlier(model={"width": 32}), "they differ in model.width"),
        (earlier(task={"vocab_size": 64}), "they differ in task.vocab_size"),
    ],
    ids=["none", "steps", "width", "task"],
)
def test_a_sweep_that_says_nothing_of_this_one_is_refused(record: SweepRecord, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        earlier_trials(spec_of(), record)


def test_only_the_method_that_learns_so_takes_it() -> None:
    with pytest.raises(ValueError, match="it is a setting of method front, not of tpe"):
        spec_of(search={"method": "tpe", "trials": 4, "warm_start": "before"})
    plain = spec_of(search={"method": "front", "trials": 10})
    assert "warm_start" not in plain.model_dump(mode="json")["search"]


def test_a_pretrained_model_says_nothing_of_random_weights_nor_the_reverse() -> None:
    record = earlier()
    pretrained = {"folder": "/models/small", "sha256": None, "lora": None}
    started = [replace(trial, config=trial.config | {"start": pretrained}) for trial in record.trials]
    with pytest.raises(UsageError, match="they differ in start, which is not a knob"):
        earlier_trials(spec_of(), replace(record, trials=tuple(started)))
    with pytest.raises(UsageError, match="they differ in start, which is not a knob"):
        earlier_trials(spec_of(start={"folder": "/models/small"}), record)
    both = replace(record, trials=(*started, record.trials[0]))
    assert len(earlier_trials(spec_of(), both)) == 1
    assert len(earlier_trials(spec_of(start={"folder": "/models/small"}), both)) == 12


def test_an_earlier_value_without_a_logarithm_is_taken_for_the_least() -> None:
    block = {"architecture": "window", "window_size": [2, 4, 8], "training.weight_decay": [0.01, 0.1]}
    spec = spec_of(space=[block])
    before = tiny_spec(space=[block | {"training.weight_decay": [0.0, 0.1]}])
    trials = []
    for number, (own, knobs) in enumerate(before.grid()):
        config = before.trial(own, knobs, 7)
        metrics = {"validation_recall": 0.5, "decode_tokens_per_second": 1.0}
        document = config.model_dump(mode="json")
        trials.append(TrialRecord(str(number), config.key, Status.FINISHED, document, metrics))
    record = SweepRecord(run_id="r", sweep_key="k", name="before", spec={}, trials=tuple(trials))
    search = FrontSearch(spec, earlier=earlier_trials(spec, record))
    rows = [row for row, _ in search._earlier]
    least = [
        search._made(spec.blocks[0], {"window_size": size, "training.weight_decay": 0.01})
        for size in (2, 4, 8)
    ]
    assert len(rows) == 6 and all(any((row == one.row).all() for row in rows) for one in least)


@pytest.mark.parametrize("told", [{}, {"validation_recall": float("nan")}])
def test_an_earlier_trial_whose_recall_is_lost_is_passed_over(told: dict[str, float]) -> None:
    spec, record = spec_of(), earlier()
    first, *others = record.trials
    metrics = {"decode_tokens_per_second": 1.0} | told
    record = replace(record, trials=(replace(first, metrics=metrics), *others))
    search = FrontSearch(spec, earlier=earlier_trials(spec, record))
    assert len(search._earlier) == len(others) and search.ask() is not None
