"""Gaussian processes, and the gains of hypervolume that follow from what they expect."""

import numpy as np
import pytest

from recallfront.platform.pareto import hypervolume
from recallfront.platform.search.gain import _covered, expected_gains
from recallfront.platform.search.surrogate import GaussianProcess, evenly


def test_a_gaussian_process_interpolates_and_knows_where_it_does_not_know() -> None:
    x = np.linspace(0, 1, 6)[:, None]
    process = GaussianProcess(np.array([0]))
    process.fit(x[:-2], np.sin(6 * x[:-2, 0]), np.zeros(4), learn=True)
    mean, deviation = process.predict(x)
    assert np.abs(mean - np.sin(6 * x[:, 0]))[:-2].max() < 0.1
    assert deviation[-1] > 2 * deviation[0]


@pytest.mark.parametrize("uncertain", [0, 1])
def test_an_expected_gain_is_the_mean_of_the_gains(uncertain: int) -> None:
    front = np.array([[0.9, 1.0], [0.5, 2.0], [0.2, 5.0], [0.1, 1.0]])
    known, origin = np.array([[0.0, 3.0]]), np.array([0.0, 0.0])
    if uncertain:
        front, known = front[:, ::-1], known[:, ::-1]
    mean, deviation = np.array([0.4]), np.array([0.2])
    found = expected_gains(
        front, origin, uncertain=uncertain, mean=mean, deviation=deviation, known=known, most=1.0
    )
    gains = []
    for recall in np.random.default_rng(1).normal(0.4, 0.2, 4000).clip(-np.inf, 1.0):
        point = np.where(np.arange(2) == uncertain, recall, known[0])
        gains.append(hypervolume(np.vstack([front, point]), origin) - hypervolume(front, origin))
    assert found[0] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / 4000**0.5)


def test_with_three_objectives_a_gain_is_nothing_where_all_is_dominated() -> None:
    front, origin = np.array([[1.0, 5.0, 5.0]]), np.zeros(3)
    known = np.array([[0.0, 4.0, 4.0], [0.0, 6.0, 4.0]])
    found = expected_gains(
        front, origin, uncertain=0, mean=np.full(2, 0.5), deviation=np.full(2, 0.1), known=known, most=1.0
    )
    assert found[0] == 0 and found[1] == pytest.approx(0.5 * 1.0 * 4.0, rel=0.05)


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("uncertain", [0, 1])
def test_an_expected_gain_of_any_number_of_objectives_is_the_mean_of_the_gains(
    objectives: int, uncertain: int
) -> None:
    random = np.random.default_rng(objectives)
    front, known = random.random((12, objectives)), random.random((5, objectives)) + 0.2
    origin, mean, deviation = np.full(objectives, 0.1), random.random(5), np.full(5, 0.3)
    found = expected_gains(
        front, origin, uncertain=uncertain, mean=mean, deviation=deviation, known=known, most=1.0
    )
    before = hypervolume(front, origin)
    drawn = random.standard_normal(1500)
    for at, point in enumerate(known):
        gains = []
        for value in np.minimum(1.0, mean[at] + deviation[at] * drawn):
            own = np.where(np.arange(objectives) == uncertain, value, point)
            gains.append(hypervolume(np.vstack([front, own]), origin) - before)
        assert found[at] == pytest.approx(np.mean(gains), abs=5 * np.std(gains) / 1500**0.5 + 1e-12)


def test_with_three_objectives_a_small_chance_is_a_gain() -> None:
    """Two deviations above its mean: the search goes on as long as there is any."""
    front, known = np.array([[0.9, 5.0, 5.0]]), np.array([[0.0, 5.0, 5.0]])
    found = expected_gains(
        front,
        np.zeros(3),
        uncertain=0,
        mean=np.array([0.5]),
        deviation=np.array([0.2]),
        known=known,
        most=1.0,
    )
    assert 0 < found[0] < 0.1


def test_a_process_takes_so_many_observations_that_it_stays_fast() -> None:
    assert list(evenly(range(500))) == list(range(500))
    kept = evenly(range(4001))
    assert len(kept) == 500 and (kept[0], kept[-1]) == (0, 4000) and max(np.diff(kept)) <= 9


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_what_a_front_covers_of_a_place_is_its_hypervolume_there(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    edge, places = 0.2 + random.random((15, objectives)), random.random((9, objectives))
    reference = np.full(objectives, 0.1)
    expected = [hypervolume(np.minimum(edge, place), reference) for place in places]
    assert _covered(edge, places, reference) == pytest.approx(expected)
