"""What search methods cost on recorded learning curves: the table, the simulator, and the project's own methods."""

import json
from pathlib import Path

import numpy as np
import pytest

from recallfront.benchmarks.search import curves as recorded
from recallfront.benchmarks.search.curves import RecordedCurves, curves, pack, space
from recallfront.benchmarks.search.record import learning_curve
from recallfront.benchmarks.search.simulate import Simulated, Truth, simulate
from recallfront.benchmarks.search.table import MethodRow, specification
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.sweeps.search import BudgetConfig
from tests.platform.specs import tiny_spec


def sweep(method: str, seed: int = 0) -> Simulated:
    spec = specification(method, seed)
    search = make_search(spec)
    return simulate(spec, Truth(spec, curves(), 0), search, make_rules(spec, search), seed=seed)


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


def test_only_whole_seeds_are_packed(tmp_path: Path) -> None:
    table, path = curves(), tmp_path / "curves.npz"
    lines = [
        {"configuration": at, "seed": 5, "recall": recall.tolist(), "loss": loss.tolist()}
        for at, (recall, loss) in enumerate(zip(table.recall[0], table.loss[0], strict=True))
    ]
    half = [line | {"seed": 6} for line in lines[:9]]
    assert pack(json.loads(json.dumps(lines + half)), path) == len(lines)
    with np.load(path, allow_pickle=False) as packed, np.load(recorded.TABLE, allow_pickle=False) as before:
        assert packed["seeds"].tolist() == [5]
        assert np.array_equal(packed["recall"][0], before["recall"][0])
        assert np.array_equal(packed["state_bytes"], before["state_bytes"])
    with pytest.raises(ValueError, match="no seed has all"):
        pack(half, path)


def test_a_grid_finds_the_whole_front_and_halving_the_same_with_fewer_steps() -> None:
    whole, halved = sweep("grid"), sweep("grid, halving")
    assert whole.points[-1].members == halved.points[-1].members == 1.0
    assert halved.points[-1].steps < whole.points[-1].steps and not halved.lost


def test_late_bloomers_are_not_lost_by_halving() -> None:
    spec = specification("random, halving", 0)
    truth = Truth(spec, curves(), 0)
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
    truth = Truth(spec, curves(), 0)
    whole, ended = (
        simulate(one, truth, make_search(one), make_rules(one, make_search(one)), workers=workers)
        for one in (plain, spec)
    )
    volumes = [0.0, *(point.hypervolume for point in whole.points)]
    ends = next(at for at in range(last, len(volumes)) if 1 - volumes[at - last] / volumes[at] < least)
    # those that run when it ends go on
    assert len(ended.points) == ends + workers - 1 < len(whole.points)
    assert [point.hypervolume for point in ended.points] == volumes[1 : len(ended.points) + 1]
    assert ended.ended is not None and "lower it to go on" in ended.ended and whole.ended is None


def test_the_front_is_found_with_a_third_of_the_steps() -> None:
    found = MethodRow("front", (sweep("front, stop_at 0.99"),))
    share = found.until(lambda point: point.hypervolume >= 0.99)
    assert share is not None and share <= 1 / 3
