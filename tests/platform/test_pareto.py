"""Pareto mathematics against moocore and Optuna and by hand."""

import time
from collections.abc import Callable
from statistics import median

import moocore
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from recallfront.platform import pareto

Points = npt.NDArray[np.float64]


@st.composite
def point_sets(draw: st.DrawFn, objectives: tuple[int, ...] = (2, 3, 4), most: int = 12) -> Points:
    """Points on a coarse grid (many ties and duplicates) or anywhere in a box, some below the reference 0."""
    size, dim = draw(st.integers(1, most)), draw(st.sampled_from(objectives))
    number = draw(
        st.sampled_from([st.integers(-2, 6).map(float), st.floats(-1, 10).map(lambda x: round(x, 6))])
    )
    return np.array(
        draw(st.lists(st.lists(number, min_size=dim, max_size=dim), min_size=size, max_size=size))
    )


@given(point_sets((1, 2, 3, 4)))
def test_non_dominated_is_moocores(points: Points) -> None:
    expected = moocore.is_nondominated(points, maximise=True, keep_weakly=True)
    np.testing.assert_array_equal(pareto.non_dominated(points), expected)


@given(point_sets((1, 2, 3, 4)))
def test_ranks_are_moocores_and_optunas(points: Points) -> None:
    ranks = pareto.ranks(points)
    np.testing.assert_array_equal(ranks, _fast_non_domination_rank(-points))
    np.testing.assert_array_equal(ranks, moocore.pareto_rank(points, maximise=True))
    np.testing.assert_array_equal(ranks == 0, pareto.non_dominated(points))


@given(point_sets())
def test_hypervolume_is_moocores_and_optunas(points: Points) -> None:
    origin = np.zeros(points.shape[1])
    volume = pareto.hypervolume(points, origin)
    assert volume == pytest.approx(moocore.hypervolume(points, ref=origin, maximise=True), abs=1e-9)
    inside = points[(points > 0).all(axis=1)]
    assert volume == pytest.approx(compute_hypervolume(-inside, -origin), abs=1e-9)


@pytest.mark.parametrize(("objectives", "points"), [(3, 100), (4, 60)])
def test_contributions_of_many_objectives_take_a_moment(objectives: int, points: int) -> None:
    """A page asks for them: they took as many hypervolumes of the whole front as it has members."""
    own = np.abs(np.random.default_rng(0).standard_normal((points, objectives)))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    origin = np.zeros(objectives)
    whole, found = pareto.hypervolume(own, origin), pareto.contributions(own, origin)
    assert found[0] == pytest.approx(whole - pareto.hypervolume(own[1:], origin))
    once = median(seconds(lambda: pareto.hypervolume(own, origin)) for _ in range(20))
    # the least of three: a garbage collection takes longer
    assert min(seconds(lambda: pareto.contributions(own, origin)) for _ in range(3)) < points * once / 2


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


@given(point_sets((2, 3)))
def test_contributions_are_moocores(points: Points) -> None:
    origin = np.zeros(points.shape[1])
    points = np.abs(points) + 1  # moocore clips what is below the reference instead of leaving it out
    expected = moocore.hv_contributions(points, ref=origin, maximise=True)
    np.testing.assert_allclose(pareto.contributions(points, origin), expected, atol=1e-9)


@given(point_sets(), st.integers(0, 99))
def test_order_does_not_matter(points: Points, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(len(points))
    origin = np.zeros(points.shape[1])
    assert pareto.hypervolume(points[shuffled], origin) == pytest.approx(pareto.hypervolume(points, origin))
    np.testing.assert_array_equal(
        pareto.non_dominated(points[shuffled]), pareto.non_dominated(points)[shuffled]
    )
    np.testing.assert_array_equal(pareto.ranks(points[shuffled]), pareto.ranks(points)[shuffled])


@given(point_sets((2, 3)))
def test_the_knee_is_on_the_front_and_scale_free(points: Points) -> None:
    index = pareto.knee(points)
    # powers of two scale without rounding, so that ties stay ties
    scaled = pareto.knee(points * np.array([1024.0, 0.125, 4.0])[: points.shape[1]])
    if index is None or scaled is None:
        assert index is scaled
        return
    assert pareto.non_dominated(points)[index]
    np.testing.assert_array_equal(points[scaled], points[index])


def test_area_of_a_staircase_by_hand() -> None:
    # three steps above (1, 1): widths 1, 2, 3 from left to right, heights 4, 2, 1
    assert pareto.hypervolume([[2, 5], [4, 3], [7, 2], [3, 3], [0, 9]], [1, 1]) == 1 * 4 + 2 * 2 + 3 * 1
    np.testing.assert_allclose(
        pareto.contributions([[2, 5], [4, 3], [7, 2], [3, 3], [0, 9]], [1, 1]), [2, 2, 3, 0, 0]
    )


def test_one_objective_and_nothing_at_all() -> None:
    assert pareto.hypervolume([[1.0], [3.0]], [0.5]) == 2.5
    assert pareto.hypervolume(np.empty((0, 2)), [0, 0]) == 0.0
    assert pareto.hypervolume([[1.0, 0.0]], [0, 0]) == 0.0  # on the reference's edge
    for function in (pareto.non_dominated, pareto.ranks, pareto.chord_distances, pareto.trade_off_ratio):
        assert len(function(np.empty((0, 2)))) == 0
    assert len(pareto.contributions(np.empty((0, 2)), [0, 0])) == 0
    assert pareto.knee(np.empty((0, 2))) is None


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        pytest.param([[0.9, 10]], None, id="one member"),
        pytest.param([[0.2, 90], [0.9, 10]], None, id="two members"),
        pytest.param([[0, 4], [1, 3], [2, 2], [3, 1], [4, 0]], None, id="on one line"),
        pytest.param([[0, 10], [1, 2], [2, 1], [10, 0]], None, id="below the chord"),
        pytest.param([[0, 10], [8, 9], [10, 0], [3, 3]], 1, id="a corner"),
        pytest.param([[0.2, 9], [0.2, 9]], None, id="equal members"),
        pytest.param([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0.6, 0.6, 0.6]], 3, id="three objectives"),
    ],
)
def test_knee(front: list[list[float]], expected: int | None) -> None:
    assert pareto.knee(front) == expected


def test_distances_to_the_chord() -> None:
    distances = pareto.chord_distances(np.array([[0, 100], [0.5, 80], [1, 0], [0.5, 50]]))
    np.testing.assert_allclose(distances, [0, 0.3 / 2**0.5, 0, 0], atol=1e-12)


def test_trade_off_ratio_by_hand() -> None:
    # from (0.5, 0.8): to either end one loses 0.8 and gains 0.5, or loses 0.5 and gains 0.2
    ratio = pareto.trade_off_ratio(np.array([[0, 1], [0.5, 0.8], [1, 0], [0.4, 0.7]]))
    np.testing.assert_allclose(ratio, [0.2 / 0.5, 0.8 / 0.5, 0.5 / 0.8, 0.0])
    assert pareto.trade_off_ratio([[3.0, 4.0]]).tolist() == [np.inf]


def test_surely_placed() -> None:
    points = np.array([[0.9, 10], [0.5, 50], [0.48, 51], [0.2, 20]])
    spreads = np.array([[0.02, 1], [0.03, 2], [0.03, 2], [0.1, 2]])
    # the two in the middle may dominate each other; the last is beaten whatever happens
    assert pareto.surely_placed(points, spreads).tolist() == [True, False, False, True]
    assert pareto.surely_placed(points, 0 * spreads).all()
    spreads[3] = [0.4, 40]
    assert not pareto.surely_placed(points, spreads)[3]


@given(point_sets((2, 3)), st.integers(0, 2**32 - 1))
def test_surely_placed_is_what_its_definition_says(points: Points, seed: int) -> None:
    # whole numbers, so that ends of spreads meet exactly
    spreads = np.random.default_rng(seed).integers(0, 3, points.shape).astype(float)
    best, worst = points + spreads, points - spreads
    for index, sure in enumerate(pareto.surely_placed(points, spreads)):
        member = pareto.non_dominated(points)[index]
        mine, theirs = (worst, best) if member else (best, worst)
        others = np.delete(theirs, index, axis=0)
        beaten = ((others >= mine[index]).all(axis=1) & (others > mine[index]).any(axis=1)).any()
        assert sure == (beaten != member)


@given(point_sets((2, 3)))
def test_a_growing_front_is_that_of_its_points(points: Points) -> None:
    origin = np.zeros(points.shape[1])
    front, latest = pareto.GrowingFront(origin), dict[int, Points]()
    for index, point in enumerate(points):
        before = front.changes, front.hypervolume
        # every third one moves a point that came before
        name = index // 2 if index % 3 == 2 else index
        front.put(name, point)
        latest[name] = point
        assert front.hypervolume == pytest.approx(pareto.hypervolume(list(latest.values()), origin), abs=1e-9)
        assert front.changes != before[0] or front.hypervolume == before[1]


@given(point_sets((2, 3)))
def test_without_spread_every_place_is_sure(points: Points) -> None:
    assert pareto.surely_placed(points, np.zeros_like(points)).all()


@pytest.mark.parametrize(
    "function",
    [
        pareto.non_dominated,
        pareto.ranks,
        pareto.knee,
        pareto.trade_off_ratio,
        pareto.chord_distances,
        lambda values: pareto.hypervolume(values, [0, 0]),
        lambda values: pareto.contributions(values, [0, 0]),
        lambda values: pareto.surely_placed(values, [[0, 0]]),
    ],
)
@pytest.mark.parametrize("values", [[[np.nan, 1.0]], [[np.inf, 1.0]], [1.0, 2.0]])
def test_what_is_not_a_finite_table_is_refused(function: Callable[[object], object], values: object) -> None:
    with pytest.raises(ValueError, match="finite array of shape"):
        function(values)


@pytest.mark.parametrize("reference", [[0.0], [0.0, np.nan], 0.0])
def test_a_reference_that_does_not_fit_is_refused(reference: object) -> None:
    with pytest.raises(ValueError, match="reference must hold 2 finite numbers"):
        pareto.hypervolume([[1.0, 1.0]], reference)  # type: ignore[arg-type]


def test_spreads_that_do_not_fit_are_refused() -> None:
    for spreads in ([[0.1, -0.1]], [[0.1]]):
        with pytest.raises(ValueError, match="spreads must be non-negative"):
            pareto.surely_placed([[1.0, 1.0]], spreads)
