"""Further seeds where they are needed: proposals of one seed each, and means that move."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from recallfront.platform.results.status import Status
from recallfront.platform.search.dominated import Dominated
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Ending, Proposal, Told, proposal_from_json
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.space import Knobs
from tests.platform.specs import refusal, tiny_spec

SEEDS = (0, 1, 2)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16)


def spec_of(trials: int = 18, **changes: Any) -> SweepSpec:
    return tiny_spec(
        **{
            "space": [{"architecture": "window", "window_size": list(SIZES)}],
            "training": {"steps": 40, "evaluate_every": 10},
            "search": {"method": "front", "trials": trials, "startup_trials": 3, "seeds": "as_needed"},
            "seeds": list(SEEDS),
        }
        | changes
    )


def end_of(proposal: Proposal, seed: int) -> Outcome:
    """Larger windows are slower and recall more, but for those of 3 and 6, which are far off the front."""
    size = int(str(proposal.knobs["window_size"]))
    drawn = 0.05 * float(np.random.default_rng([size, seed]).standard_normal())
    recall = 0.05 if size in (3, 6) else 0.2 + 0.04 * size
    figures = {
        "validation_recall": min(1.0, max(0.0, recall + drawn)),
        "recall": recall,
        "decode_tokens_per_second": 100.0 / size,
    }
    return Outcome(Status.FINISHED, figures)


def run(spec: SweepSpec, search: FrontSearch, most: int = 100) -> list[tuple[Proposal, Outcome]]:
    """One trial after the other, as the driver has it: the search hears the trial, then the result."""
    planner = Planner(spec, search, {})
    ends: list[tuple[Proposal, Outcome]] = []
    while len(ends) < most and (plan := planner.next()) is not None:
        assert isinstance(plan, PlannedTrial)
        outcome = end_of(plan.proposal, plan.seed)
        search.heard(plan, 0, outcome.figures)
        search.ended(plan, outcome)
        planner.ended(plan, outcome)
        ends.append((plan.proposal, outcome))
    return ends


def tried(ends: list[tuple[Proposal, Outcome]]) -> Counter[int]:
    return Counter(int(str(proposal.knobs["window_size"])) for proposal, _ in ends)


def test_further_seeds_go_to_the_front() -> None:
    ends = run(spec_of(), FrontSearch(spec_of()))
    number = tried(ends)
    assert len(ends) == 18 and set(number) >= {1, 2, 4, 8, 12, 16}
    assert all(number[size] <= 1 for size in (3, 6)), "no seed moves them onto the front"
    assert max(number.values()) == 3 and sum(count > 1 for count in number.values()) >= 4
    assert all(len(proposal.some_seeds) == 1 for proposal, _ in ends)
    which = [(proposal.knobs["window_size"], *proposal.some_seeds) for proposal, _ in ends]
    assert len(set(which)) == len(which), "no trial is proposed twice"


def test_it_ends_once_every_seed_has_run() -> None:
    search = FrontSearch(spec_of(trials=100))
    number = tried(run(spec_of(trials=100), search))
    assert sum(number.values()) <= len(SIZES) * len(SEEDS) and search.notes()


def test_before_anything_has_ended_there_is_no_further_seed() -> None:
    spec = spec_of(space=[{"architecture": "window", "window_size": [4, 8]}])
    search = FrontSearch(spec)
    asked = [search.ask(), search.ask(), search.ask()]
    assert asked[2] is None and None not in asked[:2]


def test_a_seed_that_failed_bars_no_other() -> None:
    spec = spec_of(space=[{"architecture": "window", "window_size": [2, 4, 8]}], seeds=[0, 1, 2, 3])
    search = FrontSearch(spec)
    planner, tried_seeds = Planner(spec, search, {}), Counter[int]()
    while (plan := planner.next()) is not None:
        assert isinstance(plan, PlannedTrial)
        tried_seeds[plan.seed] += 1
        outcome = end_of(plan.proposal, plan.seed)
        if plan.seed == 1:
            outcome = Outcome(Status.OUT_OF_MEMORY, {})
        search.heard(plan, 0, end_of(plan.proposal, plan.seed).figures)
        search.ended(plan, outcome)
        planner.ended(plan, outcome)
    assert tried_seeds[1] > 0 and tried_seeds[2] > 0


def test_a_resumed_search_goes_on_as_if_it_had_not_been_interrupted() -> None:
    spec = spec_of()
    whole = run(spec, FrontSearch(spec))
    first = run(spec, search := FrontSearch(spec), most=11)
    told: list[Told] = [(proposal.to_json(), *Planner.judge(spec, [outcome])) for proposal, outcome in first]
    resumed = FrontSearch(spec, told, proposed=len(first))
    for proposal, outcome in first:
        plan = PlannedTrial(proposal, proposal.some_seeds[0], spec.trial(proposal.block, proposal.knobs, 0))
        resumed.heard(plan, 0, outcome.figures)
        resumed.ended(plan, outcome)
    assert resumed.ask() == search.ask() == whole[11][0]


def test_a_proposal_is_read_back_with_its_seeds() -> None:
    spec = spec_of()
    proposal = Proposal(3, spec.blocks[0], {"window_size": 4}, some_seeds=(2,))
    assert proposal_from_json(spec, proposal.to_json()) == proposal
    assert "seeds" not in Proposal(3, spec.blocks[0], {"window_size": 4}).to_json(), "as in earlier versions"


def test_all_seeds_make_one_result_and_one_seed_another() -> None:
    class Two:
        told: list[tuple[int, Ending]] = []
        left = [
            Proposal(0, spec_of().blocks[0], {"window_size": 4}),
            Proposal(1, spec_of().blocks[0], {"window_size": 8}, some_seeds=(1,)),
        ]

        def ask(self) -> Proposal | None:
            return self.left.pop(0) if self.left else None

        def tell(self, proposal: Proposal, ending: Ending, values: object) -> None:
            self.told.append((proposal.number, ending))

        def expects(self, trials: int) -> float | None:
            return None

        def notes(self) -> list[str]:
            return []

    two, seeds = Two(), []
    planner = Planner(spec_of(), two, {})
    while (plan := planner.next()) is not None:
        assert not isinstance(plan, Impossible)
        seeds.append((plan.proposal.number, plan.seed))
        planner.ended(plan, end_of(plan.proposal, plan.seed))
    assert seeds == [(0, 0), (0, 1), (0, 2), (1, 1)]
    assert two.told == [(0, Ending.COMPLETE), (1, Ending.COMPLETE)]


def test_a_lucky_first_seed_loses_its_place() -> None:
    spec = spec_of()
    rule = Dominated(spec)

    def plan(size: int, seed: int) -> PlannedTrial:
        knobs: Knobs = {"window_size": size}
        return PlannedTrial(Proposal(0, spec.blocks[0], knobs), seed, spec.trial(spec.blocks[0], knobs, seed))

    def end(size: int, seed: int, recall: float) -> None:
        figures = {"validation_recall": recall, "recall": recall, "decode_tokens_per_second": 10.0}
        rule.ended(plan(size, seed), Outcome(Status.FINISHED, figures))

    slower = {"decode_tokens_per_second": 9.0}
    end(4, 0, 1.0)
    assert rule.judge(plan(8, 0), 0, slower) is not None
    end(4, 1, 0.8)
    assert rule.judge(plan(8, 0), 0, slower) is None
    end(2, 0, 1.0)
    assert rule.judge(plan(8, 0), 0, slower) is not None


def test_a_budget_counts_a_configuration_with_its_first_seed() -> None:
    assert spec_of().number_of_trials == 18
    assert spec_of(budget={"min_gain": 0.01}).first_seeds == (0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [4]}, "search.seeds='as_needed': needs several seeds; seeds=[4]"),
        (
            {"early_stopping": {"first_rung_steps": 10}},
            "search.seeds='as_needed': cannot be combined with early_stopping",
        ),
        (
            {"search": {"method": "random", "trials": 4, "seeds": "as_needed"}},
            "seeds='as_needed': it is a setting of method front, not of random",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    spec = spec_of().model_dump(mode="json") | changes
    assert said in refusal(**spec)
