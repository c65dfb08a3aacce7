"""Plans: seeds, validation, answers from the ledger, trials wanted twice, and what the search is told."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from recallfront.platform.results.status import Status
from recallfront.platform.search.grid import GridSearch
from recallfront.platform.search.planner import Impossible, Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Ending, Proposal
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.space import Knobs
from tests.platform.specs import tiny_spec

FIGURES = {"validation_recall": 0.5, "recall": 0.9, "decode_tokens_per_second": 10.0}
FINISHED = Outcome(Status.FINISHED, FIGURES)
TWO: list[dict[str, Any]] = [{"architecture": "window", "window_size": [4, 8]}]


class Told(GridSearch):
    """A grid that asks some of its proposals twice, and keeps what it is told."""

    def __init__(self, spec: SweepSpec, *, twice: bool = False) -> None:
        super().__init__(spec)
        self.told: list[tuple[int, Ending, Sequence[float] | None]] = []
        self._twice, self._again = twice, list[Proposal]()

    def ask(self) -> Proposal | None:
        if self._again:
            return self._again.pop()
        proposal = super().ask()
        if self._twice and proposal is not None:
            self._again.append(Proposal(100 + proposal.number, proposal.block, proposal.knobs))
        return proposal

    def tell(self, proposal: Proposal, ending: Ending, values: Sequence[float] | None) -> None:
        self.told.append((proposal.number, ending, values))


def planner(
    spec: SweepSpec, ledger: Mapping[str, Outcome] | None = None, *, twice: bool = False, **more: Any
) -> tuple[Planner, Told]:
    search = Told(spec, twice=twice)
    return Planner(spec, search, ledger or {}, **more), search


def next_plan(plans: Planner) -> PlannedTrial:
    plan = plans.next()
    assert isinstance(plan, PlannedTrial)
    return plan


def test_every_seed_is_a_trial_and_a_proposal_is_told_when_all_have_ended() -> None:
    plans, search = planner(tiny_spec(space=TWO, seeds=[3, 5]))
    first, second, third = (next_plan(plans) for _ in range(3))
    assert [(p.proposal.number, p.seed, p.config.seed) for p in (first, second, third)] == [
        (0, 3, 3),
        (0, 5, 5),
        (1, 3, 3),
    ]
    plans.ended(first, FINISHED)
    assert search.told == []
    plans.ended(second, Outcome(Status.FINISHED, FIGURES | {"validation_recall": 0.7}))
    assert search.told == [(0, Ending.COMPLETE, [pytest.approx(0.6), 10.0])]


def test_what_the_ledger_knows_is_not_planned() -> None:
    spec = tiny_spec(space=TWO)
    known = spec.trial(spec.blocks[0], {"window_size": 4}, 0).key
    plans, search = planner(spec, {known: FINISHED})
    assert next_plan(plans).config.model.model_dump()["window_size"] == 8
    assert plans.answered == 1 and search.told == [(0, Ending.COMPLETE, [0.5, 10.0])]
    assert plans.next() is None


@pytest.mark.parametrize(
    ("status", "again"),
    [(Status.LOST, True), (Status.RUNNING, True)]
    + [(s, False) for s in Status if s not in (Status.LOST, Status.RUNNING)],
)
def test_only_what_was_lost_is_run_again(status: Status, again: bool) -> None:
    spec = tiny_spec(space=[TWO[0] | {"window_size": 4}])
    key = spec.trial(spec.blocks[0], {"window_size": 4}, 0).key
    plans, _ = planner(spec, {key: Outcome(status, FIGURES)})
    assert (plans.next() is not None) == again


def test_a_trial_wanted_twice_runs_once_and_both_are_told() -> None:
    plans, search = planner(tiny_spec(space=TWO), twice=True)
    first, second = next_plan(plans), next_plan(plans)
    assert (first.proposal.number, second.proposal.number) == (0, 1)
    plans.ended(first, FINISHED)
    assert [number for number, _, _ in search.told] == [0, 100]
    assert plans.next() is None  # the second proposal of the other one
    plans.ended(second, FINISHED)
    assert [number for number, _, _ in search.told] == [0, 100, 1, 101]
    assert plans.answered == 2


def test_impossible_ones_are_told_and_never_run() -> None:
    spec = tiny_spec(space=[{"architecture": "attention", "num_heads": [3, 4]}], seeds=[0, 1])
    plans, search = planner(spec)
    impossible = [plans.next(), plans.next()]
    assert all(isinstance(trial, Impossible) for trial in impossible)
    assert isinstance(impossible[0], Impossible) and "num_heads is 3" in impossible[0].reason
    assert impossible[0].settings == {"architecture": "attention", "num_heads": 3, "seed": 0}
    assert search.told == [(0, Ending.FAILED, None)]
    assert next_plan(plans).config.model.num_heads == 4


def test_looking_ahead_loses_nothing() -> None:
    spec = tiny_spec(space=[{"architecture": "attention", "num_heads": [3, 4]}])
    plans, _ = planner(spec)
    assert plans.has_plan() and plans.proposed == 2
    assert isinstance(plans.next(), Impossible) and isinstance(plans.next(), PlannedTrial)
    assert not plans.has_plan() and plans.next() is None


def test_unfinished_proposals_of_an_earlier_run_come_first() -> None:
    spec = tiny_spec(space=TWO, seeds=[0, 1])
    block = spec.blocks[0]
    ended = spec.trial(block, {"window_size": 7}, 0).key
    plans, search = planner(spec, {ended: FINISHED}, unfinished=[Proposal(9, block, {"window_size": 7})])
    plan = next_plan(plans)
    assert (plan.proposal.number, plan.seed) == (9, 1) and plans.proposed == 10
    plans.ended(plan, FINISHED)
    assert search.told == [(9, Ending.COMPLETE, [0.5, 10.0])]
    assert next_plan(plans).proposal.number == 0


@pytest.mark.parametrize(
    ("statuses", "ending"),
    [
        ([Status.FINISHED, Status.FINISHED], Ending.COMPLETE),
        ([Status.FINISHED, Status.PRUNED], Ending.PRUNED),
        ([Status.PRUNED, Status.PRUNED], Ending.PRUNED),
        ([Status.FINISHED, Status.DIVERGED], Ending.FAILED),
        ([Status.PRUNED, Status.ERROR], Ending.FAILED),
        ([Status.INVALID, Status.INVALID], Ending.FAILED),
        ([Status.LOST, Status.FINISHED], Ending.FAILED),
    ],
)
def test_the_verdict_of_several_seeds(statuses: list[Status], ending: Ending) -> None:
    told = Planner.judge(tiny_spec(), [Outcome(status, FIGURES) for status in statuses])
    assert told == (ending, [0.5, 10.0] if ending is Ending.COMPLETE else None)


def test_what_goes_on_after_all_comes_next_and_its_proposal_is_told_again() -> None:
    plans, search = planner(tiny_spec(space=TWO, seeds=[3, 5]))
    first, second = next_plan(plans), next_plan(plans)
    plans.ended(first, Outcome(Status.PRUNED, {}))
    plans.ended(second, FINISHED)
    assert search.told == [(0, Ending.PRUNED, None)]
    plans.again([first])
    assert next_plan(plans) is first and next_plan(plans).proposal.number == 1
    plans.ended(first, FINISHED)
    assert search.told[1:] == [(0, Ending.COMPLETE, [0.5, 10.0])]


@pytest.mark.parametrize("ends_first", [True, False])
def test_one_that_goes_on_before_its_proposal_is_planned_runs_once(ends_first: bool) -> None:
    """A resumed sweep: of two proposals of an earlier run the second was pruned, and is promoted at once."""
    spec = tiny_spec(space=TWO)
    keys = [spec.trial(spec.blocks[0], {"window_size": size}, 0).key for size in (4, 8)]
    plans, search = planner(spec, {keys[1]: Outcome(Status.PRUNED, {})})
    proposal = Proposal(1, spec.blocks[0], {"window_size": 8})
    late = PlannedTrial(proposal, 0, spec.trial(spec.blocks[0], proposal.knobs, 0))
    first = next_plan(plans)
    plans.again([late])
    assert next_plan(plans) is late and plans.is_planned(keys[1])
    if not ends_first:
        assert plans.next() is None
    plans.ended(late, FINISHED)
    plans.ended(first, FINISHED)
    assert plans.next() is None and not plans.is_planned(keys[1])
    assert {number for number, ending, _ in search.told if ending is Ending.COMPLETE} == {0, 1}


def test_one_seed_goes_on_while_the_other_is_still_to_be_planned() -> None:
    """A resumed sweep: of one proposal a seed was pruned and the other lost."""
    spec = tiny_spec(space=TWO[:1] + [{"architecture": "hawk"}], seeds=[3, 5])
    block = spec.blocks[0]
    knobs: Knobs = {"window_size": 8}
    pruned = PlannedTrial(Proposal(1, block, dict(knobs)), 3, spec.trial(block, knobs, 3))
    plans, search = planner(spec, {pruned.config.key: Outcome(Status.PRUNED, {})})
    first = [next_plan(plans), next_plan(plans)]
    plans.again([pruned])
    assert next_plan(plans) is pruned
    other = next_plan(plans)
    assert (other.proposal.number, other.seed) == (1, 5)
    for plan in (*first, pruned, other):
        plans.ended(plan, FINISHED)
    assert [(number, ending) for number, ending, _ in search.told] == [
        (0, Ending.COMPLETE),
        (1, Ending.COMPLETE),
    ]


def test_one_seed_that_goes_on_keeps_its_proposal_waiting() -> None:
    plans, search = planner(tiny_spec(space=TWO, seeds=[3, 5]))
    first, second = next_plan(plans), next_plan(plans)
    plans.ended(first, Outcome(Status.PRUNED, {}))
    plans.again([first])
    plans.ended(second, FINISHED)
    assert not search.told and next_plan(plans) is first


def test_a_finished_trial_that_lacks_an_objective_is_no_result() -> None:
    """A store may have refused a figure."""
    plans, search = planner(tiny_spec(space=TWO, seeds=[3, 5]))
    for figures in (FIGURES, {"validation_recall": 0.5}):
        plans.ended(next_plan(plans), Outcome(Status.FINISHED, figures))
    assert search.told == [(0, Ending.FAILED, None)]
