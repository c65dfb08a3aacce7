"""What a search found of a grid's front, and when."""

from dataclasses import replace
from typing import Any

import pytest

from recallfront.benchmarks.search.against_grid import Found, found
from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from tests.platform.specs import tiny_spec

STATE = [{"metric": "recall"}, {"metric": "state_bytes", "direction": "min", "reference": 100.0}]


def sweep(*trials: tuple[float, float, int, Status], **changes: Any) -> SweepRecord:
    """Trials of a recall, a state and so many steps, which ended in this order."""
    spec = tiny_spec(**{"objectives": STATE} | changes)
    records = tuple(
        TrialRecord(
            run_id=f"{at}",
            trial_key=f"{at}",
            status=status,
            config={"knob": at // len(spec.seeds), "seed": spec.seeds[at % len(spec.seeds)]},
            metrics={"validation_recall": recall, "recall": recall, "state_bytes": state},
            tags={"steps": f"{steps}"},
            end_time=float(at),
        )
        for at, (recall, state, steps, status) in enumerate(trials)
    )
    return SweepRecord("", "", "s", spec.model_dump(mode="json"), records)


DONE, PRUNED = Status.FINISHED, Status.PRUNED
# 0.5 * 90 + 0.5 * 50, and 200 bytes are beyond the reference
GRID = sweep((1.0, 50.0, 40, DONE), (0.5, 10.0, 40, DONE), (0.4, 20.0, 40, DONE), (1.0, 200.0, 40, DONE))


def test_steps_count_until_the_share_and_until_every_member_is_found() -> None:
    other = sweep(
        (0.99, 50.0, 20, DONE), (0.1, 10.0, 10, PRUNED), (0.49, 10.0, 40, DONE), (0.5, 10.0, 40, DONE)
    )
    own = found(GRID, other)
    assert own == Found(steps=110, share=own.share, until_99=110, until_all=70)
    assert own.share == pytest.approx((0.5 * 90 + 0.49 * 50) / 70)


def test_what_was_not_found_has_no_steps() -> None:
    own = found(GRID, sweep((1.0, 50.0, 30, DONE)))
    assert own == Found(30, own.share, None, None) and own.share == pytest.approx(50 / 70)


def test_other_objectives_are_refused() -> None:
    size = {"metric": "parameters", "direction": "min", "reference": 9.0}
    with pytest.raises(UsageError, match="have other objectives"):
        found(GRID, sweep(objectives=[{"metric": "recall"}, size]))
    with pytest.raises(UsageError, match="no configuration has finished"):
        found(sweep((0.1, 10.0, 10, PRUNED)), GRID)


def test_a_configuration_is_judged_by_the_mean_of_its_seeds() -> None:
    seeds = {"seeds": [0, 1]}
    lucky = ((1.0, 50.0, 40, DONE), (0.6, 50.0, 40, DONE))
    steady = ((0.85, 60.0, 40, DONE), (0.85, 60.0, 40, DONE))
    grid = sweep(*lucky, *steady, **seeds)  # the second, which needs more state, has the better mean
    both = 0.8 * 50 + 0.05 * 40
    own = found(grid, sweep(*lucky, **seeds))
    assert own == Found(80, own.share, None, None) and own.share == pytest.approx(0.8 * 50 / both)
    assert found(grid, sweep(*lucky, *steady, **seeds)) == Found(160, 1.0, 160, 160)
    # a configuration that lacks a seed has not finished
    assert found(grid, sweep(lucky[0], **seeds)).share == 0.0


def test_where_seeds_are_run_as_needed_what_a_lucky_one_found_is_lost_with_the_next() -> None:
    grid = sweep((0.8, 50.0, 40, DONE))
    needed = {"seeds": [0, 1], "search": {"method": "front", "trials": 4, "seeds": "as_needed"}}
    lucky, unlucky = (0.8, 50.0, 40, DONE), (0.6, 50.0, 40, DONE)
    assert found(grid, sweep(lucky, **needed)) == Found(40, 1.0, 40, 40)
    own = found(grid, sweep(lucky, unlucky, **needed))
    assert own == Found(80, own.share, None, None) and own.share == pytest.approx(0.7 / 0.8)


def test_steps_of_trials_that_failed_count() -> None:
    other = sweep((0.0, 50.0, 7, Status.DIVERGED), (1.0, 50.0, 40, DONE), (0.5, 10.0, 40, DONE))
    assert found(GRID, other) == Found(steps=87, share=1.0, until_99=87, until_all=87)


def test_a_finished_trial_that_lacks_an_objective_is_passed_over() -> None:
    first, *others = GRID.trials
    lacking = replace(first, trial_key="lacking", config={"knob": 9, "seed": 0}, metrics={"recall": 1.0})
    assert found(replace(GRID, trials=(lacking, first, *others)), GRID) == found(GRID, GRID)
