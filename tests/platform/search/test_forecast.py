"""What curves say of an end, by curves of their own length alone; and searches in which steps are a knob."""

from typing import Any

from recallfront.platform.results.status import Status
from recallfront.platform.search.forecast import Curves
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.halving import Halving
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.proposals import Ending, Proposal
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.space import Knobs
from tests.platform.specs import tiny_spec

STEPS = [40, 400]


def told(recall: float) -> dict[str, float]:
    return {"validation_recall": recall, "validation_loss": 3 - recall, "decode_tokens_per_second": 1.0}


def test_a_curve_is_compared_with_those_of_its_length_and_kind() -> None:
    curves = Curves()
    for number in range(3):
        for of, kind, final in ((40, "", 0.2), (400, "", 0.9), (400, "other", 0.1)):
            trial = f"{number}-{of}-{kind}"
            curves.add(trial, 30, told(0.1), of=of, kind=kind)
            curves.finish(trial, final)
    short, long = "short", "long"
    curves.add(short, 30, told(0.1), of=40)
    curves.add(long, 30, told(0.1), of=400)
    near, far = curves.forecast(short), curves.forecast(long)
    assert near is not None and far is not None
    assert (round(near.mean, 6), round(far.mean, 6)) == (0.2, 0.9)
    assert far.deviation > near.deviation, "it has hardly begun"
    curves.add("alone", 30, told(0.1), of=50)
    assert curves.forecast("alone") is None and curves.forecast("unknown") is None


def spec_of(**changes: Any) -> SweepSpec:
    rates = [0.001 * at for at in range(1, 9)]
    block = {"architecture": "window", "training.learning_rate": rates, "training.steps": STEPS}
    training = {"steps": 40, "evaluate_every": 10}
    return tiny_spec(**{"space": [block], "training": training} | changes)


class Stage:
    """A sweep whose trials report to its rules."""

    def __init__(self, **changes: Any) -> None:
        self.spec = spec_of(**changes)
        self.search = make_search(self.spec)
        self.rules = make_rules(self.spec, self.search)

    def plan(self, knobs: Knobs) -> PlannedTrial:
        proposal = Proposal(0, self.spec.blocks[0], knobs)
        return PlannedTrial(proposal, 0, self.spec.trial(proposal.block, knobs, 0))

    def train(self, rate: float, steps: int, recall: float, final: float) -> Status:
        """Train a configuration that has `recall` until its last step, unless a rule ends it."""
        plan = self.plan({"training.learning_rate": rate, "training.steps": steps})
        for step in range(10, steps, 10):
            if (verdict := self.rules.judge(plan, step, told(recall))) is not None:
                self.rules.ended(plan, Outcome(verdict.status, told(recall)))
                return verdict.status
        self.rules.ended(plan, Outcome(Status.FINISHED, told(final)))
        self.search.tell(plan.proposal, Ending.COMPLETE, [final, 1.0])
        return Status.FINISHED


def test_halving_does_not_prune_a_long_training_by_what_short_ones_come_to() -> None:
    stage = Stage(early_stopping={"first_rung_steps": 10, "reduction": 2})
    for number in range(1, 4):
        assert stage.train(0.001 * number, 40, 0.5, 0.5) is Status.FINISHED
    assert stage.train(0.004, 40, 0.7, 0.9) is Status.FINISHED
    assert stage.train(0.005, 40, 0.4, 0.4) is Status.PRUNED, "short ones do not rise"
    assert stage.train(0.001, 400, 0.1, 0.9) is Status.FINISHED, "no long one has shown what becomes of it"


def test_halving_judges_a_long_training_to_its_end() -> None:
    spec = spec_of(early_stopping={"first_rung_steps": 10, "reduction": 2})
    assert spec.early_stopping is not None
    assert Halving(spec.early_stopping, spec).rungs == [10, 20, 40, 80, 160, 320]


def test_front_does_not_prune_a_long_training_by_what_short_ones_come_to() -> None:
    stage = Stage(search={"method": "front", "trials": 16, "startup_trials": 16})
    for number in range(1, 8):
        stage.train(0.001 * number, 40, 0.1, 0.1)
    assert isinstance(stage.search, FrontSearch)
    for steps, hopeless in ((40, True), (400, False)):
        knobs: Knobs = {"training.learning_rate": 0.008, "training.steps": steps}
        plan = stage.plan(knobs)
        stage.search.heard(plan, 30, told(0.1))
        forecast = stage.search._curves.forecast(plan.config.key)
        assert (forecast is not None) == hopeless, "no long one has shown what becomes of it"


def test_front_asks_for_what_adds_most_for_each_step() -> None:
    """Nothing is known of the steps' worth, so that all cost ten times as much that take ten times as long."""
    search = FrontSearch(spec_of(search={"method": "front", "trials": 16, "startup_trials": 3}))
    for _ in range(3):
        proposal = search.ask()
        assert proposal is not None
        search.tell(proposal, Ending.COMPLETE, [0.5, 1.0])
    gains = search._gains()
    asked = search.ask()
    assert asked is not None and asked.knobs["training.steps"] == 40
    best_of_all = max(gain / own.steps for gain, own in zip(gains, search._all, strict=True))
    index = search._place[id(search._candidate(asked))]
    assert gains[index] / 40 == best_of_all
