"""The configurations that a search chooses from, and what tells them apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Final

import numpy as np

from recallfront.platform.pareto import FloatArray
from recallfront.platform.search.planner import PlannedTrial
from recallfront.sweeps.space import TRAINING_PREFIX, Domain, Knobs, Range, Scalar, SpaceBlock
from recallfront.sweeps.spec import SweepSpec

_MOST_CONFIGURATIONS: Final = 1000  # of a block
_MOST_VALUES: Final = 16  # of a range
_PRECISION: Final = f"{TRAINING_PREFIX}precision"  # throughput is measured in it


@dataclass(eq=False)
class Configuration:
    """One configuration of the space."""

    block: SpaceBlock
    knobs: Knobs
    row: FloatArray
    shape: str  # what it shares with all that have its throughput
    batch: str  # what it shares with all whose steps take as long
    steps: float  # of its whole training
    finished: dict[int, float] = field(default_factory=dict)  # seed -> final recall
    asked: set[int] = field(default_factory=set)  # seeds that it was proposed with
    over: set[int] = field(default_factory=set)  # those of them that have ended, whatever came of them
    is_stopped: bool = False
    stopped: dict[int, PlannedTrial] = field(default_factory=dict)  # seed -> its trial

    def is_possible(self, spec: SweepSpec) -> bool:
        """Whether a trial of it can be run."""
        try:
            spec.trial(self.block, self.knobs, spec.seeds[0])
        except ValueError:
            return False
        return True

    def left(self, seeds: Iterable[int]) -> list[int]:
        """Those of the seeds that it was not proposed with."""
        return [seed for seed in seeds if seed not in self.asked]


def configurations(
    blocks: Sequence[SpaceBlock], random: np.random.Generator
) -> Iterator[tuple[SpaceBlock, Knobs]]:
    """Every configuration of a space, a range as some values of it; of a larger block some at random, each once."""
    for block in blocks:
        axes = [_values(domain) for domain in block.domains.values()]
        lengths = [len(axis) for axis in axes]
        few = prod(lengths) <= _MOST_CONFIGURATIONS
        for places in product(*map(range, lengths)) if few else _drawn(lengths, random):
            values = [axis[at] for axis, at in zip(axes, places, strict=True)]
            yield block, dict(zip(block.domains, values, strict=True))


def _drawn(lengths: Sequence[int], random: np.random.Generator) -> Iterable[tuple[int, ...]]:
    """Places on axes of these lengths, none twice."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < _MOST_CONFIGURATIONS:
        found[tuple(random.integers(lengths).tolist())] = None
    return found


def _values(domain: Domain) -> list[Scalar]:
    if not isinstance(domain, Range):
        return list(domain)
    if domain.step is not None:
        own = domain.values()
        places = np.linspace(0, len(own) - 1, min(_MOST_VALUES, len(own))).round().astype(int)
        return [own[at] for at in places]
    spread = np.geomspace if domain.log else np.linspace
    spaced = spread(float(domain.low), float(domain.high), _MOST_VALUES).tolist()
    return sorted({round(value) for value in spaced}) if domain.is_integer else spaced


def name(block: SpaceBlock, knobs: Knobs) -> str:
    """What tells a configuration from all others."""
    return repr((block.label, sorted((key, repr(value)) for key, value in knobs.items())))


def shape(block: SpaceBlock, knobs: Knobs) -> str:
    """What configurations of one throughput share: all but the settings of the training that it does not depend on."""
    own = {
        key: value for key, value in knobs.items() if key == _PRECISION or not key.startswith(TRAINING_PREFIX)
    }
    return name(block, own)
