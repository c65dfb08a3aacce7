"""Search by expected gain: the surrogate, the gains, what is proposed, and which trials are ended."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recallfront.platform.pareto import FloatArray
from recallfront.platform.results.status import Status
from recallfront.platform.search.front_search import FrontSearch
from recallfront.platform.search.planner import Outcome, PlannedTrial, Planner
from recallfront.platform.search.proposals import Ending, Proposal
from recallfront.platform.search.rules import SECONDS_PER_STEP, Rules
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.search.surrogate import Features, GaussianProcess
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.space import Knobs
from tests.platform.specs import tiny_spec

STEPS = (10, 20, 30)


def spec_of(**changes: Any) -> SweepSpec:
    return tiny_spec(
        **{
            "space": [
                {
                    "architecture": "window",
                    "window_size": [2, 4, 8, 16],
                    "training.learning_rate": [0.001, 0.01],
                },
                {"architecture": "attention", "positions": ["alibi", "none"]},
            ],
            "training": {"steps": 40, "evaluate_every": 10},
            "search": {"method": "front", "trials": 10, "startup_trials": 4},
        }
        | changes
    )


def features() -> Features:
    return Features(spec_of().blocks)


def test_configurations_become_numbers_between_0_and_1() -> None:
    spec, made = spec_of(), features()
    rows = {str(knobs): made.row(block, knobs) for block, knobs in spec.grid()}
    assert len({row.tobytes() for row in rows.values()}) == len(rows) == 10
    assert all(((row >= 0) & (row <= 1)).all() for row in rows.values())
    windows = [made.row(spec.blocks[0], {"window_size": size}) for size in (2, 4, 8)]
    assert np.allclose(windows[1] - windows[0], windows[2] - windows[1]), "by their logarithm"


def test_the_gradient_that_length_scales_are_learned_by() -> None:
    """The likelihood of what is learned is no worse than that of neighbours."""
    random = np.random.default_rng(0)
    x = random.random((30, 2))
    y = np.sin(5 * x[:, 0]) + 0.01 * random.standard_normal(30)
    process = GaussianProcess(np.array([0, 1]))
    process.fit(x, y, np.zeros(30), learn=True)
    assert process.parameters is not None
    assert process.parameters[0] < process.parameters[1], "the second column says nothing"


def decode_of(proposal: Proposal) -> float:
    return (
        1.0
        if proposal.block.architecture == "attention"
        else 8.0 - float(str(proposal.knobs["window_size"])) / 4
    )


def recall_of(proposal: Proposal, step: int) -> float:
    """Windows learn in proportion to their size, attention everything, and only at 0.01."""
    best = (
        1.0 if proposal.block.architecture == "attention" else float(str(proposal.knobs["window_size"])) / 20
    )
    slow = proposal.knobs.get("training.learning_rate") == 0.001
    return best * step / 40 * (0.1 if slow else 1.0)


def sweep(spec: SweepSpec) -> tuple[list[Proposal], dict[int, Status]]:
    """Run a sweep of one trial at a time: what was proposed, and how it ended."""
    search = make_search(spec)
    rules = make_rules(spec, search)
    proposals, ends = [], {}
    while (proposal := search.ask()) is not None:
        proposals.append(proposal)
        plan = PlannedTrial(proposal, 0, spec.trial(proposal.block, proposal.knobs, 0))
        status, found = Status.FINISHED, {"decode_tokens_per_second": decode_of(proposal)}
        for step in (0, *STEPS, 40):
            if step:
                recall = recall_of(proposal, step)
                found = found | {"validation_recall": recall, "validation_loss": 3 - 3 * recall}
            verdict = rules.judge(plan, step, found) if step < 40 else None
            if verdict is not None:
                status = verdict.status
                break
        rules.ended(plan, Outcome(status, found))
        search.tell(proposal, Ending.COMPLETE if status is Status.FINISHED else Ending.PRUNED, None)
        ends[proposal.number] = status
    return proposals, ends


def test_it_proposes_each_configuration_once_and_finishes_the_front() -> None:
    proposals, ends = sweep(spec_of())
    names = [str((p.block.label, p.knobs)) for p in proposals]
    assert len(set(names)) == len(names)
    front = {str(("window", {"window_size": size, "training.learning_rate": 0.01})) for size in (2, 4, 8, 16)}
    finished = {name for name, p in zip(names, proposals, strict=True) if ends[p.number] is Status.FINISHED}
    assert front <= finished and any("attention" in name for name in finished)
    assert len(finished) < 10, "what adds nothing is ended, or never asked for"


def test_the_first_proposals_are_of_every_block() -> None:
    search = FrontSearch(spec_of(search={"method": "front", "trials": 4, "startup_trials": 4}))
    labels = [p.block.label for _ in range(4) if (p := search.ask()) is not None]
    assert sorted(labels) == ["attention", "attention", "window", "window"] and search.ask() is None


@pytest.mark.parametrize(("trials", "startup"), [(10, 3), (60, 6), (300, 10)])
def test_few_trials_are_not_all_drawn_at_random(trials: int, startup: int) -> None:
    assert spec_of(search={"method": "front", "trials": trials}).search.drawn_at_random == startup
    own = {"method": "front", "trials": trials, "startup_trials": 4}
    assert spec_of(search=own).search.drawn_at_random == 4


def test_a_resumed_search_proposes_nothing_again() -> None:
    spec = spec_of()
    first = FrontSearch(spec)
    before = [p for _ in range(4) if (p := first.ask()) is not None]
    told = [(p.to_json(), Ending.COMPLETE, [recall_of(p, 40), decode_of(p)]) for p in before[:3]]
    again = FrontSearch(spec, told, 4, before[3:])
    after = [p for _ in range(6) if (p := again.ask()) is not None]
    names = [str((p.block.label, p.knobs)) for p in (*before, *after)]
    assert len(set(names)) == len(names) and [p.number for p in after] == list(range(4, 4 + len(after)))


def test_a_range_is_searched_as_some_of_its_values() -> None:
    low_to_high = {"low": 0.001, "high": 0.1, "log": True}
    space = [
        {
            "architecture": "window",
            "window_size": {"low": 2, "high": 16},
            "training.learning_rate": low_to_high,
        }
    ]
    search = FrontSearch(spec_of(space=space))
    proposal = search.ask()
    assert proposal is not None and isinstance(proposal.knobs["window_size"], int)
    assert 0.001 <= float(proposal.knobs["training.learning_rate"] or 0) <= 0.1


def test_a_resumed_search_judges_nothing_by_what_it_knows_now(tmp_path: Path) -> None:
    """A late bloomer was going on when the driver ended, and what was pruned then may still be promoted."""
    spec = spec_of(search={"method": "front", "trials": 10, "startup_trials": 10})
    search, path = FrontSearch(spec), tmp_path / "reports.jsonl"
    rules = Rules(spec, [search], path)
    proposals = [p for _ in range(10) if (p := search.ask()) is not None]
    plans = {str(p.knobs): PlannedTrial(p, 0, spec.trial(p.block, p.knobs, 0)) for p in proposals}

    def told(recall: float) -> dict[str, float]:
        return {"validation_recall": recall, "validation_loss": 3 - recall, "decode_tokens_per_second": 5.0}

    def window(size: int, rate: float) -> PlannedTrial:
        return plans[str({"window_size": size, "training.learning_rate": rate})]

    late, hopeless = window(16, 0.001), window(8, 0.001)
    for step in STEPS:
        assert rules.judge(late, step, told(0.01)) is None
    told_again = []
    for size, rate, recall in (
        (2, 0.001, 0.0),
        (4, 0.001, 0.0),
        *((size, 0.01, 0.9) for size in (2, 4, 8, 16)),
    ):
        plan = window(size, rate)
        for step in STEPS:
            rules.judge(plan, step, told(recall))
        rules.ended(plan, Outcome(Status.FINISHED, told(recall)))
        told_again.append((plan.proposal.to_json(), Ending.COMPLETE, [recall, 5.0]))
    verdicts = [rules.judge(hopeless, step, told(0.0)) for step in STEPS]
    assert any(verdicts)
    rules.ended(hopeless, Outcome(Status.PRUNED, told(0.0)))

    again = FrontSearch(spec, told_again, 10, [late.proposal])
    Rules(spec, [again], path)
    assert not again._candidate(late.proposal).is_stopped
    assert again._candidate(hopeless.proposal).stopped == {0: hopeless}


def test_a_trial_goes_on_once_the_model_gives_it_a_chance_again() -> None:
    spec = spec_of(search={"method": "front", "trials": 10, "startup_trials": 10})
    search = FrontSearch(spec)
    rules = Rules(spec, [search])
    proposals = [p for _ in range(10) if (p := search.ask()) is not None]
    plans = [PlannedTrial(p, 0, spec.trial(p.block, p.knobs, 0)) for p in proposals]
    windows = [plan for plan in plans if plan.proposal.block.architecture == "window"]
    fast = [plan for plan in windows if plan.proposal.knobs["training.learning_rate"] == 0.01]
    late = next(
        p for p in windows if p.proposal.knobs == {"window_size": 16, "training.learning_rate": 0.001}
    )

    def told(plan: PlannedTrial, recall: float) -> dict[str, float]:
        speed = decode_of(plan.proposal)
        return {"validation_recall": recall, "validation_loss": 3 - recall, "decode_tokens_per_second": speed}

    def train(plan: PlannedTrial, *recalls: float) -> None:
        for step, recall in zip(STEPS, recalls, strict=False):
            assert rules.judge(plan, step, told(plan, recall)) is None
        rules.ended(plan, Outcome(Status.FINISHED, told(plan, recalls[-1])))

    flat = [plan for plan in windows if plan not in (*fast, late)]
    flat.sort(key=lambda plan: float(str(plan.proposal.knobs["window_size"])))
    for plan in flat[:2]:
        train(plan, 0.0, 0.0, 0.0, 0.0)
    for plan in fast:
        train(plan, 0.8, 0.8, 0.8, 0.8)
    rulings = [rules.judge(late, step, told(late, 0.0)) for step in STEPS]
    ruling = rulings[-1]
    assert ruling is not None and rulings[:-1] == [None, None]
    rules.ended(late, Outcome(ruling.status, told(late, 0.0)))
    assert rules.promote() == ()
    train(flat[2], 0.0, 0.0, 1.0, 1.0)  # next to the stopped one, and as flat until it is the best of all
    assert rules.promote() == [late] and rules.promote() == ()
    assert rules.judge(late, STEPS[-1], told(late, 0.0)) is None


def test_an_early_end_is_told() -> None:
    search = FrontSearch(spec_of(search={"method": "front", "trials": 12, "startup_trials": 12}))
    for number in range(10):
        assert search.ask() is not None and search.notes() == [], number
    assert search.ask() is None
    assert search.notes() == [
        "the search ended after 10 of 12 configurations: it found no further one in the space"
    ]
    hopeless = FrontSearch(spec_of(search={"method": "front", "trials": 10, "startup_trials": 3}))
    for _ in range(3):
        proposal = hopeless.ask()
        assert proposal is not None
        hopeless.tell(proposal, Ending.COMPLETE, [1.0, 1e6])
    hopeless._known = np.zeros((10, 2))  # as if all were slower than what the hypervolume counts from
    assert hopeless.ask() is None
    assert hopeless.notes() == [
        "the search ended after 3 of 10 configurations: it expects no gain of hypervolume of any further one"
    ]


def test_what_runs_is_judged_without_fitting_the_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(search={"method": "front", "trials": 10, "startup_trials": 10})
    search = FrontSearch(spec)
    plans = [
        PlannedTrial(p, 0, spec.trial(p.block, p.knobs, 0))
        for _ in range(10)
        if (p := search.ask()) is not None
    ]
    told = {"validation_recall": 0.5, "validation_loss": 1.0, "decode_tokens_per_second": 1.0}
    for plan in plans[:4]:
        search.judge(plan, 10, told)
        search.ended(plan, Outcome(Status.FINISHED, told))
    search.judge(plans[4], 30, told)
    fitted: list[int] = []
    fit = GaussianProcess.fit

    def counted(self: GaussianProcess, x: FloatArray, *more: FloatArray, learn: bool) -> None:
        fitted.append(len(x))
        fit(self, x, *more, learn=learn)

    monkeypatch.setattr(GaussianProcess, "fit", counted)
    for step in (30, 30, 30):
        assert search.judge(plans[4], step, told) is None
    assert fitted == []
    search.ended(plans[4], Outcome(Status.FINISHED, told))
    search.judge(plans[5], 30, told)
    again = len(fitted)
    search.judge(plans[5], 30, told)
    assert len(fitted) == again > 0


def rates_spec() -> SweepSpec:
    """Windows at eight learning rates, of which those above 0.016 blow up."""
    block = {
        "architecture": "window",
        "window_size": [2, 4, 6, 8, 10, 12, 14, 16],
        "training.learning_rate": [0.001 * 2**at for at in range(8)],
    }
    return spec_of(space=[block], search={"method": "front", "trials": 32})


def end_of(proposal: Proposal) -> Outcome:
    """Recall rises towards the learning rates that diverge."""
    size, rate = (float(str(proposal.knobs[key])) for key in ("window_size", "training.learning_rate"))
    figures = {"decode_tokens_per_second": 3000 - 80 * size}
    if rate > 0.016:
        return Outcome(Status.DIVERGED, figures)
    recall = {0.001: 0.1, 0.002: 0.3, 0.004: 0.5, 0.008: 0.7, 0.016: 0.8}[rate] * (0.4 + size / 30)
    return Outcome(Status.FINISHED, figures | {"validation_recall": recall, "validation_loss": 1.0})


def test_it_learns_which_configurations_diverge(tmp_path: Path) -> None:
    spec, path = rates_spec(), tmp_path / "reports.jsonl"
    search = make_search(spec)
    planner, rules = Planner(spec, search, {}), make_rules(spec, search, path)
    diverged, best = [], set()
    while isinstance(plan := planner.next(), PlannedTrial):
        outcome = end_of(plan.proposal)
        measured = {"decode_tokens_per_second": outcome.figures["decode_tokens_per_second"]}
        if (ruling := rules.judge(plan, 0, measured)) is not None:
            outcome = Outcome(ruling.status, measured)
        elif outcome.status is Status.DIVERGED:
            diverged.append(plan)
        elif plan.proposal.knobs["training.learning_rate"] == 0.016:
            best.add(plan.proposal.knobs["window_size"])
        rules.ended(plan, outcome)
        planner.ended(plan, outcome)
    assert len(diverged) <= 8 and len(best) == 8

    again = FrontSearch(spec, proposed=32)
    make_rules(spec, again, path)
    assert [c.knobs for c in again._diverged] == [plan.proposal.knobs for plan in diverged]


def test_configurations_of_another_precision_have_a_throughput_of_their_own() -> None:
    space = [{"architecture": "attention", "training.precision": ["float32", "bfloat16"]}]
    spec = spec_of(space=space, search={"method": "front", "trials": 2})
    search = FrontSearch(spec)
    for proposal in filter(None, (search.ask(), search.ask())):
        plan = PlannedTrial(proposal, 0, spec.trial(proposal.block, proposal.knobs, 0))
        speed = 2.0 if proposal.knobs["training.precision"] == "bfloat16" else 1.0
        search.heard(plan, 0, {"decode_tokens_per_second": speed})
    values = zip(search._all, search._known_values(), strict=True)
    exact = {candidate.knobs["training.precision"]: known[1] for candidate, known in values}
    assert exact == {"float32": 1.0, "bfloat16": 2.0}


def test_impossible_configurations_use_up_no_trials() -> None:
    space = [{"architecture": "attention", "width": [30, 60], "num_heads": [1, 2, 7, 8]}]
    search = {"method": "front", "trials": 4, "startup_trials": 4}
    spec = spec_of(space=space, model={}, search=search)
    own = FrontSearch(spec)
    asked = [proposal for _ in range(5) if (proposal := own.ask()) is not None]
    assert [proposal.number for proposal in asked] == [0, 1, 2, 3]
    assert {(p.knobs["width"], p.knobs["num_heads"]) for p in asked} == {(30, 1), (30, 2), (60, 1), (60, 2)}


def test_with_stop_at_nothing_is_asked_for_that_can_only_exceed_the_recall_at_which_it_is_solved() -> None:
    space = [
        {"architecture": "window", "window_size": [2, 4, 8, 16], "training.learning_rate": [0.001, 0.01]}
    ]
    training = {"steps": 40, "evaluate_every": 10, "stop_at": {"recall": 0.9}}
    search = FrontSearch(spec_of(space=space, training=training))
    best = {"window_size": 2, "training.learning_rate": 0.01}
    others = [c for c in search._all if c.knobs != best][:3]
    for number, candidate in enumerate([c for c in search._all if c.knobs == best] + others):
        candidate.asked.add(0)
        size = float(str(candidate.knobs["window_size"]))
        recall = 0.95 if candidate.knobs == best else 0.5
        search.tell(Proposal(number, candidate.block, candidate.knobs), Ending.COMPLETE, [recall, 100 / size])
    for candidate in search._all:
        search._measured(
            candidate, {"decode_tokens_per_second": 100 / float(str(candidate.knobs["window_size"]))}
        )
    assert not search._gains_up_to(search._most).any() and search._gains().any()


def test_a_gain_is_weighed_by_the_seconds_of_its_training(tmp_path: Path) -> None:
    """As far as trials have told what their steps take, else by steps; an interrupted search knows it again."""
    space = [{"architecture": "window", "window_size": [2, 4, 8, 16], "training.batch_size": [8, 16]}]
    spec = spec_of(space=space)
    search = FrontSearch(spec)
    rules = Rules(spec, [search], tmp_path / "reports")
    assert search._costs().tolist() == [40.0] * 8
    for size, batch in ((2, 8), (16, 8), (2, 16)):
        knobs: Knobs = {"window_size": size, "training.batch_size": batch}
        plan = PlannedTrial(Proposal(0, spec.blocks[0], knobs), 0, spec.trial(spec.blocks[0], knobs, 0))
        rules.judge(plan, 10, {"validation_recall": 0.1, SECONDS_PER_STEP: size * batch / 100})
    again = FrontSearch(spec)
    Rules(spec, [again], tmp_path / "reports")
    for own in (search, again):
        costs = {tuple(c.knobs.values()): cost for c, cost in zip(own._all, own._costs(), strict=True)}
        assert costs[2, 8] == pytest.approx(40 * 0.16) and costs[2, 16] == pytest.approx(40 * 0.32)
        assert costs[16, 8] == pytest.approx(40 * 1.28)
        assert costs[2, 8] < costs[4, 8] < costs[8, 8] < costs[16, 8], "what is not known is modelled"
