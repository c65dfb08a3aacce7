"""Successive halving under several objectives: ranks, ties, rungs, and what a resumed sweep still knows."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from recallfront.platform.search.halving import Halving
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.spec import EarlyStopping

OBJECTIVES = (Objective(metric="recall"), Objective(metric="decode_tokens_per_second"))
SMALL_STATE = (Objective(metric="recall"), Objective(metric="state_bytes", direction="min", reference=1e6))


def halving(
    path: Path,
    *,
    first: int = 10,
    reduction: int = 2,
    steps: int = 100,
    objectives: tuple[Objective, ...] = OBJECTIVES,
    seeds: tuple[int, ...] = (0,),
) -> Halving:
    settings = EarlyStopping(first_rung_steps=first, reduction=reduction)
    return Halving(settings, objectives, steps, path / "rungs" / "file.jsonl", seeds)


def figures(recall: float, decode: float = 1.0) -> dict[str, float]:
    return {"validation_recall": recall, "decode_tokens_per_second": decode, "state_bytes": decode}


def test_rungs_grow_by_the_reduction_and_end_before_the_last_step(tmp_path: Path) -> None:
    assert halving(tmp_path, first=10, reduction=3, steps=271).rungs == [10, 30, 90, 270]
    assert halving(tmp_path, first=10, reduction=3, steps=270).rungs == [10, 30, 90]


def test_the_best_half_goes_on(tmp_path: Path) -> None:
    rung = halving(tmp_path)
    went = {
        name: rung.goes_on(name, 10, figures(r)) for name, r in zip("abcdef", (5, 4, 6, 3, 7, 2), strict=True)
    }
    # a is alone; b is 2nd of 2; c 1st of 3; d 4th of 4; e 1st of 5; f 6th of 6
    assert went == {"a": True, "b": False, "c": True, "d": False, "e": True, "f": False}


@pytest.mark.parametrize("reduction", [2, 3, 10])
def test_the_first_and_the_best_always_survive(tmp_path: Path, reduction: int) -> None:
    rung = halving(tmp_path, reduction=reduction)
    for at in range(12):
        assert rung.goes_on(f"better-{at}", 10, figures(float(at)))
    assert not rung.goes_on("worst", 10, figures(-1.0))


def test_rank_comes_before_contribution(tmp_path: Path) -> None:
    rung = halving(tmp_path)
    for name, recall, decode in (("a", 0.9, 1.0), ("b", 0.5, 5.0), ("c", 0.1, 9.0)):
        rung.goes_on(name, 10, figures(recall, decode))
    assert not rung.goes_on("dominated", 10, figures(0.45, 4.9))
    assert rung.goes_on("on the front", 10, figures(0.7, 4.0))


@pytest.mark.parametrize(("recall", "decode"), [(0.99, 0.5), (0.01, 99.0)])
def test_the_ends_of_a_front_survive(tmp_path: Path, recall: float, decode: float) -> None:
    """The most accurate and the fastest are what the front is for, though they dominate nothing."""
    rung = halving(tmp_path, reduction=3)
    for at in range(5):
        rung.goes_on(f"middle-{at}", 10, figures(0.4 + 0.05 * at, 50.0 - 5 * at))
    assert rung.goes_on("end", 10, figures(recall, decode))


def test_equals_do_not_all_survive(tmp_path: Path) -> None:
    rung = halving(tmp_path)
    went = [rung.goes_on(name, 10, figures(0.5)) for name in "abcdefgh"]
    assert 1 <= sum(went) <= 4 and went[0]
    assert [halving(tmp_path / "again").goes_on("a", 10, figures(0.5))] == [True]


def test_minimised_objectives_count_the_other_way(tmp_path: Path) -> None:
    rung = halving(tmp_path, objectives=SMALL_STATE)
    rung.goes_on("small", 10, figures(0.5, 100.0))
    assert not rung.goes_on("large", 10, figures(0.5, 200.0))
    assert rung.goes_on("smaller", 10, figures(0.5, 50.0))


def test_a_trial_is_judged_once_a_rung(tmp_path: Path) -> None:
    rung = halving(tmp_path, reduction=2, steps=100)
    assert rung.goes_on("good", 10, figures(0.9))
    assert not rung.goes_on("bad", 10, figures(0.1))
    assert rung.goes_on("good", 10, figures(0.0)), "a resumed trial reports again what was judged already"
    assert not rung.goes_on("bad", 10, figures(0.1)), (
        "one that was killed before its end was recorded stays stopped"
    )
    assert rung.goes_on("good", 9, figures(0.0)) and rung.goes_on("good", 15, figures(0.0))
    assert rung.goes_on("good", 20, figures(0.9))
    assert not rung.goes_on("bad", 20, figures(0.1))


def test_nothing_is_judged_before_there_is_recall(tmp_path: Path) -> None:
    rung = halving(tmp_path)
    rung.goes_on("a", 10, figures(0.9))
    assert rung.goes_on("b", 10, {"decode_tokens_per_second": 0.1})
    assert not rung.goes_on("b", 10, figures(0.1))


def test_a_resumed_sweep_compares_with_what_came_before(tmp_path: Path) -> None:
    before = halving(tmp_path)
    for name, recall in (("a", 0.9), ("b", 0.8), ("c", 0.7)):
        before.goes_on(name, 10, figures(recall))
    (file,) = (tmp_path / "rungs").iterdir()
    file.write_text(file.read_text() + '[10, "d", [0.')  # killed while it wrote
    assert not halving(tmp_path).goes_on("e", 10, figures(0.75))
    assert halving(tmp_path / "elsewhere").goes_on("e", 10, figures(0.75))


def test_a_configuration_is_judged_once_on_the_mean_of_its_seeds(tmp_path: Path) -> None:
    """Two seeds of equal throughput do not compete: the luckier one would stay and bias what is kept upwards."""
    rung = halving(tmp_path, seeds=(0, 1))
    assert rung.goes_on("good", 10, figures(0.9), 0) and rung.goes_on("good", 10, figures(0.5), 1)
    assert rung.goes_on("lucky once", 10, figures(0.95), 0), "its other seed is not there yet"
    assert not rung.goes_on("lucky once", 10, figures(0.1), 1), "0.525 on average, below 0.7"
    assert not rung.goes_on("lucky once", 15, figures(0.99), 0), "both leave"
    assert rung.goes_on("good", 20, figures(0.9), 0)


def test_of_no_configuration_one_seed_is_kept(tmp_path: Path) -> None:
    """Noise of 0.1 on 13 configurations, reported in step as two at once run."""
    random = Random(0)
    rung = halving(tmp_path, seeds=(0, 1), first=10, steps=40)
    alive = {(name, seed) for name in map(str, range(13)) for seed in (0, 1)}
    for step in (10, 20, 30):
        for name, seed in sorted(alive):
            if not rung.goes_on(name, step, figures(int(name) / 13 + random.gauss(0, 0.1)), seed):
                alive.remove((name, seed))
    kept = Counter(name for name, _ in alive)
    assert set(kept.values()) == {2} and len(kept) < 13


def test_a_resumed_sweep_knows_which_seeds_are_to_leave(tmp_path: Path) -> None:
    before = halving(tmp_path, seeds=(0, 1))
    for name, recall in (("a", 0.9), ("b", 0.1)):
        for seed in (0, 1):
            before.goes_on(name, 10, figures(recall), seed)
    assert not halving(tmp_path, seeds=(0, 1)).goes_on("b", 15, figures(0.99), 0)


def test_a_damaged_line_of_the_rungs_is_passed_over(tmp_path: Path) -> None:
    halving(tmp_path).goes_on("a", 10, figures(0.5))
    (file,) = (tmp_path / "rungs").iterdir()
    file.write_text(file.read_text().replace("0.5", "0.9"))
    assert halving(tmp_path).goes_on("b", 10, figures(0.6))
