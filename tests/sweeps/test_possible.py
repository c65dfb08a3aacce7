"""A space is refused when, and only when, none of its configurations is possible."""

import itertools
import random

import pytest

from recallfront.sweeps import SpecError
from recallfront.sweeps.load import parse_spec
from recallfront.sweeps.possible import impossible
from recallfront.sweeps.space import Knobs, Scalar

SEGMENT = "[{input_seq_len: 16, num_kv_pairs: 2, examples: 8}]"
TEXT = f"name: s\ntask: {{name: mqar, vocab_size: 64, train: {SEGMENT}, validation: {SEGMENT}, test: {SEGMENT}}}\n"
MANY = "training.learning_rate: [1.0e-1, 1.0e-2, 1.0e-3, 1.0e-4, 1.0e-5, 1.0e-6, 1.0e-7, 1.0e-8, 1.0e-9], "
MANY += "training.weight_decay: [0, .1, .2, .3, .4, .5, .6, .7, .8, .9], training.steps: [1, 2, 3, 4, 5, 6, 7, 8], "
MANY += "training.batch_size: [1, 2, 3, 4, 5, 6, 7, 8]"


def space(heads: str, rest: str = MANY) -> str:
    search = "search: {method: random, trials: 2}\n"
    return f"{TEXT}model: {{width: 16}}\n{search}space: [{{architecture: attention, num_heads: {heads}, {rest}}}]\n"


@pytest.mark.parametrize("heads", ["[3, 4]", "[4, 3]", "[3, 5, 7, 2]", "{low: 3, high: 9, step: 1}"])
def test_one_possible_value_is_enough_wherever_it_stands(heads: str) -> None:
    assert parse_spec(space(heads), source="f").blocks[0].size > 4096


@pytest.mark.parametrize("heads", ["[3, 5]", "3", "[3, 5, 6, 7, 9, 10]"])
def test_none_possible_is_refused_however_many_there_are(heads: str) -> None:
    with pytest.raises(SpecError, match="no configuration is possible: .*heads"):
        parse_spec(space(heads), source="f")


def test_a_long_range_is_not_refused_for_its_ends() -> None:
    parse_spec(space("{low: 3, high: 9999}"), source="f")


@pytest.mark.parametrize("seed", range(50))
def test_the_decision_is_that_of_trying_every_combination(seed: int) -> None:
    """Rules that forbid pairs and triples of values, as validators do that each look at a few settings."""
    rng = random.Random(seed)
    axes: dict[str, list[Scalar]] = {name: list(range(rng.randint(1, 4))) for name in "abcdef"}
    rules = []
    for _ in range(rng.randint(1, 6)):
        names = rng.sample("abcdef", rng.randint(1, 3))
        rules.append((names, rng.randint(2, 3), rng.randint(0, 2)))

    def failure(knobs: Knobs) -> str | None:
        for names, divisor, rest in rules:
            values = [int(knobs[name] or 0) for name in names]
            if sum(values) % divisor != rest:
                return (
                    f"{', '.join(f'{n}={v}' for n, v in zip(names, values, strict=True))}: must be {divisor}"
                )
        return None

    every = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    possible = any(failure(knobs) is None for knobs in every)
    assert (impossible(axes, failure) is None) == possible
