"""Searching: the grid's order, and Optuna's samplers told by ask-and-tell, resumed, and better than chance."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from recallfront.platform.pareto import hypervolume
from recallfront.platform.search.proposals import Ending, Proposal, Search, Told, proposal_from_json
from recallfront.platform.search.samplers import REPEAT, OptunaSearch, _suggest, make_search
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.space import Range
from tests.platform.specs import tiny_spec

SPACE: list[dict[str, Any]] = [
    {"architecture": "window", "window_size": {"low": 2, "high": 12}, "num_heads": [1, 2, 4]},
    {"architecture": "attention", "training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
    {"architecture": "hawk", "lru_width": {"low": 8, "high": 32, "step": 8}, "norm": "layer"},
]
THREE = [
    {"metric": "recall"},
    {"metric": "decode_tokens_per_second"},
    {"metric": "state_bytes", "direction": "min", "reference": 1e6},
]


def spec_of(method: str, trials: int = 40, seed: int = 0, **changes: Any) -> SweepSpec:
    return tiny_spec(
        **{"space": SPACE, "search": {"method": method, "trials": trials, "seed": seed}} | changes
    )


def figures(proposal: Proposal) -> list[float]:
    """Recall, throughput and state of a made-up world: longer windows remember more and are slower."""
    size = {"window": 1.0, "attention": 16.0, "hawk": 4.0}[proposal.block.architecture]
    size *= float(str(proposal.knobs.get("window_size", 1)))
    return [1 - math.exp(-size / 5), 100 / (1 + size), size]


def study(search: Search) -> Any:
    assert isinstance(search, OptunaSearch)
    return search._study


def asked_once(search: Search) -> list[FrozenTrial]:
    return [trial for trial in study(search).get_trials() if REPEAT not in trial.user_attrs]


def ask(search: Search) -> Proposal:
    proposal = search.ask()
    assert proposal is not None
    return proposal


def play(
    spec: SweepSpec, search: Search, rounds: int
) -> list[tuple[Proposal, Ending, Sequence[float] | None]]:
    """Ask and tell; every fourth is pruned, every fifth failed."""
    told: list[tuple[Proposal, Ending, Sequence[float] | None]] = []
    for at in range(rounds):
        proposal = ask(search)
        ending = Ending.PRUNED if at % 4 == 3 else Ending.FAILED if at % 5 == 4 else Ending.COMPLETE
        values = figures(proposal)[: len(spec.objectives)] if ending is Ending.COMPLETE else None
        search.tell(proposal, ending, values)
        told.append((proposal, ending, values))
    return told


def told_again(told: Sequence[tuple[Proposal, Ending, Sequence[float] | None]]) -> list[Told]:
    return [(proposal.to_json(), ending, values) for proposal, ending, values in told]


def test_a_grid_is_asked_in_order_and_ends() -> None:
    spec = tiny_spec(space=[{"architecture": "window", "window_size": [4, 8]}, {"architecture": "hawk"}])
    search = make_search(spec)
    found = [ask(search) for _ in range(3)]
    assert [(p.number, p.block.label, p.knobs) for p in found] == [
        (0, "window", {"window_size": 4}),
        (1, "window", {"window_size": 8}),
        (2, "hawk", {}),
    ]
    assert search.ask() is None and search.ask() is None


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("method", ["random", "tpe", "nsga2", "gp"])
def test_every_sampler_proposes_what_is_in_the_space(method: str, objectives: int) -> None:
    spec = spec_of(method, trials=18, objectives=THREE[:objectives])
    search = make_search(spec)
    told = play(spec, search, 18)
    assert search.ask() is None
    assert [proposal.number for proposal, _, _ in told] == list(range(18))
    for proposal, _, _ in told:
        label = proposal.block.label
        assert set(proposal.knobs) == set(proposal.block.domains), "a block's own knobs, and no other's"
        assert all(name == "block" or name.startswith(f"{label}.") for name in proposal.parameters)
        spec.trial(proposal.block, proposal.knobs, 0)  # every one of these is possible
        for name, domain in proposal.block.domains.items():
            value = proposal.knobs[name]
            if isinstance(domain, tuple):
                assert value in domain
            else:
                assert isinstance(value, int | float) and domain.low <= value <= domain.high
                assert not domain.is_integer or isinstance(value, int)
                assert domain.step is None or value in domain.values()
    assert len({proposal.block.label for proposal, _, _ in told}) == 3


@pytest.mark.parametrize(("drawn", "spelt"), [(6.9e-18, 0.0), (0.10000000000000002, 0.1), (0.3, 0.3)])
def test_values_with_a_step_are_those_that_the_specification_spells(drawn: float, spelt: float) -> None:
    """The GP sampler misses the grid by a bit or two, and each such value would be a trial of its own."""
    domain = Range(low=0.0, high=0.3, step=0.1)
    assert _suggest(FixedTrial({"knob": drawn}), "knob", domain) == spelt


def test_pruned_and_failed_are_never_mixed_with_complete() -> None:
    spec = spec_of("tpe")
    search = make_search(spec)
    told = play(spec, search, 20)
    states = {
        Ending.COMPLETE: TrialState.COMPLETE,
        Ending.PRUNED: TrialState.PRUNED,
        Ending.FAILED: TrialState.FAIL,
    }
    trials = asked_once(search)
    assert [trial.state for trial in trials] == [states[ending] for _, ending, _ in told]
    for trial, (_, ending, values) in zip(trials, told, strict=True):
        assert trial.values == values if ending is Ending.COMPLETE else not trial.values
    best = study(search).best_trials
    assert best and all(trial.state is TrialState.COMPLETE for trial in best)


def test_minimised_objectives_are_told_as_such() -> None:
    search = make_search(spec_of("random", objectives=THREE))
    assert [direction.name for direction in study(search).directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]


@pytest.mark.parametrize("method", ["random", "tpe", "nsga2", "gp"])
def test_what_was_told_is_restored(method: str) -> None:
    spec = spec_of(method)
    before = make_search(spec)
    told = play(spec, before, 15)
    after = make_search(spec, told_again(told), proposed=15)
    for old, new in zip(asked_once(before), asked_once(after), strict=True):
        assert (old.params, old.distributions, old.state, old.values) == (
            new.params,
            new.distributions,
            new.state,
            new.values,
        )
    assert ask(after).number == 15


@pytest.mark.parametrize("method", ["random", "tpe", "nsga2", "gp"])
def test_a_resumed_sampler_does_not_draw_its_first_draws_again(method: str) -> None:
    spec = spec_of(method)
    first = make_search(spec)
    told = play(spec, first, 8)
    for resumed in (make_search(spec, told_again(told), proposed=8), make_search(spec, [], proposed=8)):
        again = [ask(resumed).parameters for _ in range(8)]
        assert again[0] != told[0][0].parameters
        assert sum(parameters in [p.parameters for p, _, _ in told] for parameters in again) <= 4
    same = make_search(spec)
    assert [ask(same).parameters for _ in range(1)] == [told[0][0].parameters], (
        "a fresh one does: it has a seed"
    )


def test_a_proposal_of_an_earlier_run_can_be_told() -> None:
    spec = spec_of("tpe")
    earlier = ask(make_search(spec))
    restored = proposal_from_json(spec, earlier.to_json())
    assert restored == earlier
    search = make_search(spec, [], proposed=1)
    search.tell(restored, Ending.COMPLETE, figures(restored)[:2])
    (trial,) = study(search).get_trials()
    assert trial.params == earlier.parameters and trial.state is TrialState.COMPLETE


@pytest.mark.parametrize("method", ["random", "tpe", "nsga2", "gp"])
def test_no_configuration_is_proposed_twice(method: str) -> None:
    """Of 20 proposals 7 were repeats; a space that is used up ends the search, and both are told."""
    space = [
        {"architecture": "window", "window_size": [2, 4, 8], "num_heads": [1, 2]},
        {"architecture": "hawk"},
    ]
    more_of_one = [*space, {"architecture": "window", "window_size": 4, "num_heads": [1, 4]}]
    spec = spec_of(method, trials=12, space=more_of_one)
    first = make_search(spec)
    half = play(spec, first, 4)
    search = make_search(spec, told_again(half[:2]), 4, [proposal for proposal, _, _ in half[2:]])
    told = half + play(spec, search, 4)
    found = {(p.block.architecture, *p.knobs.items()) for p, _, _ in told}
    assert len(found) == 8 and search.ask() is None
    assert search.notes()[-1].startswith("the search ended after 8 of 12 configurations")
    assert "configurations again, and was asked for others" in search.notes()[0]


def test_nsga2_draws_later_blocks_from_those_that_did_well() -> None:
    """With Optuna's own rate of mutation every block was drawn at random: it is the only gene that parents share."""
    counts = {}
    for method in ("random", "nsga2"):
        search = make_search(spec_of(method, trials=60))
        drawn = []
        for _ in range(60):
            proposal = ask(search)
            drawn.append(proposal.block.label)
            search.tell(proposal, Ending.COMPLETE, [float(drawn[-1] == "attention"), 1.0])
        counts[method] = drawn[32:].count("attention")
    assert counts["nsga2"] > 1.2 * counts["random"]


def test_what_is_drawn_at_random_can_be_set() -> None:
    def settings(**search: Any) -> Any:
        return study(make_search(tiny_spec(space=SPACE, search={"trials": 9, **search}))).sampler

    assert settings(method="nsga2")._population_size == 16
    assert settings(method="nsga2", population=4)._population_size == 4
    assert settings(method="tpe", startup_trials=3)._n_startup_trials == 3
    assert settings(method="gp", startup_trials=3)._n_startup_trials == 3


def test_the_budget_counts_what_earlier_runs_proposed() -> None:
    search = make_search(spec_of("random", trials=5), [], proposed=4)
    assert ask(search).number == 4
    assert search.ask() is None


def front_volume(method: str, seed: int, trials: int) -> float:
    """Hypervolume that a sampler reaches on a problem whose front is a small corner of its space."""
    space = [
        {
            "architecture": "window",
            "training.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
            "training.weight_decay": {"low": 0.0, "high": 1.0},
            "training.min_learning_rate_ratio": {"low": 0.0, "high": 1.0},
            "training.gradient_clipping": {"low": 0.0, "high": 1.0},
        },
        {"architecture": "attention", "training.weight_decay": {"low": 0.0, "high": 1.0}},
    ]
    search = make_search(spec_of(method, trials, seed, space=space))
    values = []
    for _ in range(trials):
        proposal = ask(search)
        if proposal.block.architecture == "attention":
            found = [0.1, 0.1]  # never any good: the samplers shall notice
        else:
            knobs = [float(str(v)) for v in proposal.knobs.values()]
            x, rest = knobs[1], (math.log10(knobs[0]) + 2, knobs[2] - 0.8, knobs[3] - 0.2)
            loss = 1 + 4 * sum(r * r for r in rest)  # as in ZDT1: the front is where this is 1
            found = [1 - x, 1 - loss * (1 - math.sqrt(x / loss))]
        search.tell(proposal, Ending.COMPLETE, found)
        values.append(found)
    return hypervolume(np.array(values), [0.0, -1.0])


def test_tpe_beats_chance_at_equal_budget() -> None:
    seeds = range(5)
    tpe, chance = ([front_volume(method, seed, 60) for seed in seeds] for method in ("tpe", "random"))
    gains = [a - b for a, b in zip(tpe, chance, strict=True)]
    print(
        f"hypervolume of 60 trials: tpe {np.mean(tpe):.3f}, random {np.mean(chance):.3f}, gains {np.round(gains, 3)}"
    )
    assert np.mean(tpe) > 1.1 * np.mean(chance)
    assert sum(gain > 0 for gain in gains) >= 4
