"""What search methods cost on recorded learning curves: the table, the simulator, and the project's own methods."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recallfront.benchmarks.search import curves as recorded
from recallfront.benchmarks.search import table as tables
from recallfront.benchmarks.search.curves import RecordedCurves, curves, pack, space
from recallfront.benchmarks.search.record import learning_curve
from recallfront.benchmarks.search.simulate import Simulated, Truth, simulate
from recallfront.benchmarks.search.table import METHODS, specification
from recallfront.platform.search.rules import SECONDS_PER_STEP
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.sweeps.search import BudgetConfig
from tests.platform.specs import tiny_spec


def sweep(
    method: str, seed: int = 0, table: RecordedCurves | None = None, seeds: tuple[int, ...] = (0,)
) -> Simulated:
    spec = specification(method, seed, seeds)
    search = make_search(spec)
    tells = METHODS[method].get("tells_seconds", False)
    truth = Truth(spec, table or curves(), tells_seconds=tells)
    return simulate(spec, truth, search, make_rules(spec, search), seed=seed)


def with_seeds(*shifts: float) -> RecordedCurves:
    """The recorded curves as those of several seeds, recall of each being so much higher: made up for these tests."""
    table = curves()
    recall = np.stack([np.clip(table.recall[0] + shift, 0.0, 1.0) for shift in shifts])
    loss = np.stack([table.loss[0]] * len(shifts))
    return replace(table, recall=recall, loss=loss, seeds=tuple(range(len(shifts))))


def best_of(
    table: RecordedCurves, architecture: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    """The curve of an architecture's best configuration, and its recall at the end."""
    own = [at for at, (block, _) in enumerate(space().grid()) if block.architecture == architecture]
    best = own[int(np.argmax(table.recall[0, own, -1]))]
    return table.recall[0, best], float(table.recall[0, best, -1])


def test_the_recorded_curves_show_a_late_jump_and_the_order_of_architectures() -> None:
    table = curves()
    assert table.recall.shape[1] == sum(block.size for block in space().blocks)
    assert recorded.TABLE.stat().st_size < 2_000_000
    attention, end = best_of(table, "attention")
    jump = np.diff(attention)
    assert attention[:3].max() < 0.2 and end > 0.99 and jump.max() > 0.2
    assert end >= best_of(table, "based")[1] > best_of(table, "window")[1] > best_of(table, "hawk")[1]


def test_a_curve_is_that_of_a_real_training() -> None:
    spec = tiny_spec(space=[{"architecture": "window"}], training={"steps": 20, "evaluate_every": 10})
    block, knobs = next(spec.grid())
    data = {split: list(spec.task.build(split)) for split in ("train", "validation")}
    recall, loss = learning_curve(spec.trial(block, knobs, 0), data)
    assert len(recall) == len(loss) == 2 and loss[1] < loss[0]
    assert learning_curve(spec.trial(block, knobs, 0), data) == (recall, loss)


def recorded_lines(seed: int) -> list[dict[str, Any]]:
    """The recorded curves as a recording writes them."""
    table = curves()
    return [
        {"configuration": at, "seed": seed, "recall": recall.tolist(), "loss": loss.tolist()}
        for at, (recall, loss) in enumerate(zip(table.recall[0], table.loss[0], strict=True))
    ]


def packed(path: Path) -> RecordedCurves:
    """What a table at `path` says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorded, "TABLE", path)
        curves.cache_clear()
        try:
            return curves()
        finally:
            curves.cache_clear()


def test_a_seed_that_some_configurations_lack_is_packed_and_its_curves_are_missing(tmp_path: Path) -> None:
    table, path = curves(), tmp_path / "curves.npz"
    lines, paces = recorded_lines(5), table.seconds_per_step.tolist()
    half = [line | {"seed": 6} for line in lines[:9]]
    with pytest.raises(ValueError, match="no seed has all"):
        pack(half, lambda: paces, path)
    assert pack(json.loads(json.dumps(lines + half)), lambda: paces, path) == len(lines) + 9
    own = packed(path)
    assert own.seeds == (5, 6) and own.whole == (5,)
    assert np.array_equal(own.recall[0], table.recall[0]) and np.array_equal(
        own.loss[1, :9], table.loss[0, :9]
    )
    assert np.isnan(own.recall[1, 9:]).all() and np.isnan(own.loss[1, 9:]).all()
    assert np.array_equal(own.state_bytes, table.state_bytes)
    with pytest.raises(
        ValueError, match="9 of 308 configurations were recorded with seed 6, and all are needed"
    ):
        Truth(specification("grid", 0, (5, 6)), own)
    with pytest.raises(ValueError, match="0 of 308 configurations were recorded with seed 7"):
        own.of([7])


def test_curves_are_added_to_a_table_and_its_seconds_are_measured_once(tmp_path: Path) -> None:
    path, paces = tmp_path / "curves.npz", [0.25] * len(recorded_lines(0))
    pack(recorded_lines(0), lambda: paces, path)
    half = recorded_lines(1)
    pack(half[:100], lambda: pytest.fail("the table has them"), path)
    assert packed(path).whole == (0,)
    pack(half[100:], lambda: pytest.fail("the table has them"), path)
    own = packed(path)
    assert own.whole == (0, 1) and own.seconds_per_step.tolist() == paces
    assert np.array_equal(own.recall[0], own.recall[1]) and np.array_equal(own.loss[0], own.loss[1])


def test_a_grid_finds_the_whole_front_and_halving_the_same_with_fewer_steps() -> None:
    whole, halved = sweep("grid"), sweep("grid, halving")
    assert whole.points[-1].members == halved.points[-1].members == 1.0
    assert halved.points[-1].steps < whole.points[-1].steps and not halved.lost


def test_late_bloomers_are_not_lost_by_halving() -> None:
    spec = specification("random, halving", 0)
    truth = Truth(spec, curves())
    bloom_late = {list(space().grid())[at][0].architecture for at in truth.late}
    assert {"attention", "based", "deltanet", "window"} == bloom_late
    lost: list[int] = []
    for seed in range(2):  # `recallfront bench search` counts them in ten
        spec = specification("random, halving", seed)
        search = make_search(spec)
        lost += simulate(spec, truth, search, make_rules(spec, search), seed=seed).lost_late
    assert not lost


def test_moasha_is_driven_where_syne_tune_is_installed() -> None:
    pytest.importorskip("syne_tune", reason="syne-tune is not installed")
    assert sweep("random, MOASHA").lost, "it compares the slow with the fast, and at a rung before the jump"


def test_a_sweep_ends_when_what_the_last_trials_added_is_below_the_share_and_not_before() -> None:
    last, least, workers = 20, 0.005, 4
    plain = specification("grid", 0)
    spec = plain.model_copy(update={"budget": BudgetConfig(min_gain=least, gain_trials=last)})
    truth = Truth(spec, curves())
    whole, ended = (
        simulate(one, truth, make_search(one), make_rules(one, make_search(one)), workers=workers)
        for one in (plain, spec)
    )
    volumes = [0.0, *(point.hypervolume for point in whole.points)]
    ends = next(at for at in range(last, len(volumes)) if 1 - volumes[at - last] / volumes[at] < least)
    # those that run when it ends go on
    assert len(ended.points) == ends + workers - 1 < len(whole.points)
    assert [point.hypervolume for point in ended.points] == volumes[1 : len(ended.points) + 1]
    assert ended.ended is not None and "lower it to continue" in ended.ended and whole.ended is None


@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_found_with_a_third_of_the_steps(seed: int) -> None:
    found = sweep("front, stop_at 0.99", seed)
    share = found.share_until(lambda point: point.hypervolume >= 0.99 and point.members == 1.0)
    assert share is not None and share <= 1 / 3


def test_seconds_of_training_are_counted_and_told_to_the_search() -> None:
    grid = sweep("grid")
    least, most = curves().seconds_per_step.min(), curves().seconds_per_step.max()
    point = grid.points[-1]
    assert point.steps * least < point.seconds < point.steps * most
    assert grid.grid_seconds == pytest.approx(curves().seconds_per_step.sum() * 300)
    spec = specification("front", 0)
    truth, untold = (Truth(spec, curves(), tells_seconds=told) for told in (True, False))
    assert truth.figures(3, 0, 20)[SECONDS_PER_STEP] == curves().seconds_per_step[3]
    assert SECONDS_PER_STEP not in truth.figures(3, 0, 0) and SECONDS_PER_STEP not in untold.figures(3, 0, 20)


def test_a_configuration_is_judged_by_the_mean_of_its_seeds() -> None:
    table = with_seeds(-0.2, 0.0, 0.2)
    spec = specification("grid", 0, (0, 1, 2))
    truth = Truth(spec, table)
    best = int(np.argmax(curves().recall[0, :, -1]))
    assert truth.final[best, 0] == pytest.approx(table.recall[:, best, -1].mean())
    assert truth.grid_steps == 3 * 308 * 300
    # one that shows its lucky seed alone is worth what all of its seeds are
    ((recall, _),) = truth.worth({best: {2: float(table.recall[2, best, -1])}})
    assert recall == pytest.approx(truth.final[best, 0])


@pytest.mark.parametrize("method", ["all seeds", "seeds as needed"])
def test_a_configuration_counts_once_it_has_its_seeds(method: str) -> None:
    whole = specification(f"front, stop_at 0.99, {method}", 0, (0, 1))
    is_all = whole.search.seeds == "all"
    assert whole.search.trials == (308 if is_all else 616), "of configurations, or of trials"
    few = whole.search.model_copy(update={"trials": 2 if is_all else 4})
    spec = whole.model_copy(update={"search": few})
    search = make_search(spec)
    found = simulate(spec, Truth(spec, with_seeds(0.0, 0.01)), search, make_rules(spec, search))
    assert found.grid_steps == 2 * 308 * 300
    assert len(found.points) == few.trials and 0 < found.points[-1].steps <= 4 * 300


def test_a_comparison_of_seeds_needs_several_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "curves", lambda: with_seeds(0.0))
    with pytest.raises(ValueError, match="needs curves of several seeds"):
        list(tables.rows(["front, stop_at 0.99, seeds as needed"], seeds=1))
    left = tables.search_table(["front, stop_at 0.99, all seeds"], seeds=1)
    assert left.row_count == 0
    assert "front, stop_at 0.99, all seeds is left out: it needs curves of several seeds" in str(left.caption)


def test_a_row_has_its_number_of_sweeps_and_the_caption_what_slow_samplers_have_less_of() -> None:
    table = tables.search_table(["grid"], seeds=2)
    assert [list(column.cells) for column in table.columns[:2]] == [["grid"], ["2"]]
    assert "(tpe 50%, gp 33%) or have fewer sweeps (gp 2)" in str(table.caption)
