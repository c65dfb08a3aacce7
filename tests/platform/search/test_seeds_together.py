"""The seeds of one configuration go on, or are ended, together."""

import numpy as np
import pytest

from recallfront.platform.results.status import Status
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.proposals import Proposal
from recallfront.platform.search.rules import Rules
from recallfront.sweeps.space import Knobs
from tests.platform.specs import tiny_spec

STEPS = range(10, 100, 10)


@pytest.mark.parametrize("finals", [(0.95, 0.2), (0.2, 0.95), (0.2, 0.2)])
def test_the_front_search_ends_no_configuration_that_it_would_promote_at_once(
    finals: tuple[float, float],
) -> None:
    """A good seed has a chance to be on the front, whatever the poor one says; where both are poor both are ended."""
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": list(range(1, 17))}],
        training={"steps": 100, "evaluate_every": 10},
        search={"method": "front", "trials": 16},
        seeds=[0, 1],
    )
    rules = Rules(spec, [FrontSearch(spec)])

    def seeds(size: int) -> list[PlannedTrial]:
        block = spec.blocks[0]
        knobs: Knobs = {"window_size": size}
        proposal = Proposal(size, block, knobs)
        return [PlannedTrial(proposal, seed, spec.trial(block, knobs, seed)) for seed in spec.seeds]

    def told(recall: float) -> dict[str, float]:
        return {"validation_recall": recall, "validation_loss": 3 - recall, "decode_tokens_per_second": 1.0}

    def at(step: int, final: float, middle: int = 20) -> dict[str, float]:
        return told(final / (1 + float(np.exp((middle - step) / 8))))

    random = np.random.default_rng(0)
    for size in (1, 2, 3, *range(5, 17)):
        final = 0.1 if size < 11 else random.choice([0.1, 0.5, 0.9])
        middle = random.choice([20, 40])
        for plan in seeds(size):
            for step in STEPS:
                rules.judge(plan, step, at(step, final, middle))
            rules.ended(plan, Outcome(Status.FINISHED, told(final)))
    rulings = {}
    for step in STEPS:
        for plan, final in zip(seeds(4), finals, strict=True):
            if plan.seed not in rulings and (ruling := rules.judge(plan, step, at(step, final))):
                rulings[plan.seed] = ruling
                rules.ended(plan, Outcome(ruling.status, at(step, final)))
    assert rulings.keys() == (set() if max(finals) > 0.9 else {0, 1})
    assert rules.promote(thorough=True) == ()
