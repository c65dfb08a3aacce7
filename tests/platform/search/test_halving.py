"""Successive halving among rivals: who competes with whom, late bloomers, seeds, resumed sweeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recallfront.platform.results.status import Status
from recallfront.platform.search.dominated import Dominated
from recallfront.platform.search.halving import Halving, rungs
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.proposals import Proposal
from recallfront.platform.search.rules import Rules, going_on
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.base import seal, unseal
from recallfront.sweeps.search import EarlyStopping
from recallfront.sweeps.space import Knobs, SpaceBlock
from recallfront.sweeps.trial import TrialConfig
from tests.platform.specs import tiny_spec

RATES = [0.001 + 0.0001 * at for at in range(12)]


def spec_of(**changes: Any) -> SweepSpec:
    return tiny_spec(
        **{
            "space": [
                {"architecture": "window", "training.learning_rate": RATES},
                {"architecture": "attention", "training.learning_rate": RATES},
            ],
            "training": {"steps": 40, "evaluate_every": 10},
            "early_stopping": {"first_rung_steps": 10, "reduction": 2},
        }
        | changes
    )


class Stage:
    """Trials that report to the rules of a sweep."""

    def __init__(self, spec: SweepSpec | None = None, path: Path | None = None) -> None:
        self.spec = spec or spec_of()
        assert self.spec.early_stopping is not None
        self.rules = Rules(self.spec, [Halving(self.spec.early_stopping, self.spec)], path)

    def plan(self, number: int, architecture: str = "window", seed: int = 0) -> PlannedTrial:
        block = next(b for b in self.spec.blocks if b.architecture == architecture)
        knobs: Knobs = {"training.learning_rate": RATES[number]}
        return PlannedTrial(Proposal(number, block, knobs), seed, self.spec.trial(block, knobs, seed))

    def stops(
        self, plan: PlannedTrial, step: int, recall: float, loss: float = 1.0, decode: float = 1.0
    ) -> bool:
        return self.rules.judge(plan, step, figures(recall, loss, decode)) is not None

    def finish(self, plan: PlannedTrial, final: float, early: float = 0.5, decode: float = 1.0) -> None:
        """A trial that had a recall of `early` until its last step."""
        for step in (10, 20, 30):
            assert not self.stops(plan, step, early, 2 - early, decode)
        self.rules.ended(plan, Outcome(Status.FINISHED, figures(final, 0.1, decode)))

    def finish_some(self, final: float = 0.9, number: int = 3) -> None:
        for at in range(number):
            self.finish(self.plan(at), final)


def figures(recall: float, loss: float, decode: float) -> dict[str, float]:
    return {"validation_recall": recall, "validation_loss": loss, "decode_tokens_per_second": decode}


@pytest.mark.parametrize(("steps", "expected"), [(271, [10, 30, 90, 270]), (270, [10, 30, 90])])
def test_rungs_grow_by_the_reduction_and_end_before_the_last_step(steps: int, expected: list[int]) -> None:
    assert rungs(EarlyStopping(first_rung_steps=10, reduction=3), steps) == expected


def test_one_that_is_behind_and_has_no_hope_is_stopped() -> None:
    stage = Stage()
    stage.finish_some(final=0.5)
    stage.finish(stage.plan(3), 0.9, early=0.7)
    verdict = stage.rules.judge(stage.plan(4), 10, figures(0.4, 1.7, 1.0))
    assert verdict is not None and verdict.status is Status.PRUNED
    assert "4 of 4 rivals were ahead" in verdict.reason and "one of them has 0.900" in verdict.reason


def test_the_best_of_its_rivals_goes_on() -> None:
    stage = Stage()
    stage.finish_some(final=0.5)
    stage.finish(stage.plan(3), 0.9, early=0.7)
    assert not stage.stops(stage.plan(4), 10, 0.75)


def test_the_slow_and_accurate_do_not_compete_with_the_slower_nor_the_fast_with_them() -> None:
    stage = Stage()
    stage.finish_some(final=0.5)
    stage.finish(stage.plan(3), 0.9, early=0.7)
    assert not stage.stops(stage.plan(4), 10, 0.1, 1.9, decode=2.0), "nothing as fast is better"
    assert stage.stops(stage.plan(5), 10, 0.1, 1.9, decode=0.5), "all that are faster are better"


def test_a_late_bloomer_is_not_stopped_by_what_other_architectures_do() -> None:
    """Attention stands at 0.05 where windows stand at 0.5, and ends above them."""
    stage = Stage()
    stage.finish_some(final=0.8, number=6)
    for number in range(2):
        attention = stage.plan(number, "attention")
        for step in (10, 20, 30):
            assert not stage.stops(attention, step, 0.05, 3.0)
        stage.rules.ended(attention, Outcome(Status.FINISHED, figures(1.0, 0.1, 1.0)))
    assert not stage.stops(stage.plan(3, "attention"), 10, 0.05, 3.0), "its own kind has shown what may come"


def test_where_recall_is_flat_the_loss_decides_who_is_ahead() -> None:
    stage = Stage()
    for at, (loss, final) in enumerate(((2.9, 0.2), (2.8, 0.3), (2.7, 0.4), (2.0, 0.9))):
        plan = stage.plan(at)
        assert not stage.stops(plan, 10, 0.05, loss)
        stage.rules.ended(plan, Outcome(Status.FINISHED, figures(final, 0.1, 1.0)))
    assert stage.stops(stage.plan(4), 10, 0.05, 3.0)
    assert not stage.stops(stage.plan(5), 10, 0.05, 1.9)


def test_patience_waits_for_another_rung() -> None:
    stage = Stage(spec_of(early_stopping={"first_rung_steps": 10, "reduction": 2, "patience": 2}))
    stage.finish_some(final=0.5)
    stage.finish(stage.plan(3), 0.9, early=0.7)
    assert not stage.stops(stage.plan(4), 10, 0.4, 1.7)
    assert stage.stops(stage.plan(4), 20, 0.4, 1.7)


def test_minimised_objectives_count_the_other_way() -> None:
    objectives = [{"metric": "recall"}, {"metric": "state_bytes", "direction": "min", "reference": 1e6}]
    stage = Stage(spec_of(objectives=objectives))

    def stops(number: int, recall: float, state: float) -> bool:
        known = {"validation_recall": recall, "validation_loss": 2 - recall, "state_bytes": state}
        return stage.rules.judge(stage.plan(number), 10, known) is not None

    for number, (recall, final) in enumerate(((0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.7, 0.9))):
        assert not stops(number, recall, 100.0)
        ends = {"validation_recall": final, "state_bytes": 100.0}
        stage.rules.ended(stage.plan(number), Outcome(Status.FINISHED, ends))
    assert stops(4, 0.4, 200.0) and not stops(5, 0.4, 50.0)


def test_nothing_is_judged_before_there_is_recall() -> None:
    stage = Stage()
    stage.finish_some()
    assert stage.rules.judge(stage.plan(4), 10, {"decode_tokens_per_second": 0.1}) is None


def test_a_configuration_is_judged_on_the_mean_of_its_seeds_and_they_leave_together() -> None:
    stage = Stage(spec_of(seeds=[0, 1]))
    for at, final in enumerate((0.5, 0.5, 0.9)):
        for seed in (0, 1):
            stage.finish(stage.plan(at, seed=seed), final, early=0.5 if final < 0.9 else 0.7)
    assert not stage.stops(stage.plan(4, seed=0), 10, 0.8, 1.2), "its other seed is not there yet"
    assert stage.stops(stage.plan(4, seed=1), 10, 0.0, 2.0), "0.4 on average"
    assert stage.stops(stage.plan(4, seed=0), 20, 0.9, 1.1), "both leave"


@pytest.mark.parametrize(
    ("status", "recall", "expected"),
    [
        (Status.DIVERGED, 0.0, True),
        (Status.TIMEOUT, 0.0, True),
        (Status.FINISHED, 0.3, True),
        (Status.FINISHED, 1.0, False),  # 0.6 on average
        (Status.LOST, 0.0, False),  # it is to run again
    ],
)
def test_no_configuration_waits_for_a_seed_that_has_ended(
    status: Status, recall: float, expected: bool
) -> None:
    stage = Stage(spec_of(seeds=[0, 1]))
    for at, final in enumerate((0.5, 0.5, 0.9)):
        for seed in (0, 1):
            stage.finish(stage.plan(at, seed=seed), final, early=0.5 if final < 0.9 else 0.7)
    ended = {} if status is not Status.FINISHED else figures(recall, 0.1, 1.0)
    stage.rules.ended(stage.plan(4, seed=1), Outcome(status, ended))
    assert stage.stops(stage.plan(4, seed=0), 10, 0.2, 1.8) == expected


def test_a_resumed_sweep_knows_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "rungs" / "reports.jsonl"
    before = Stage(path=path)
    before.finish_some(final=0.5)
    before.finish(before.plan(3), 0.9, early=0.7)
    assert before.stops(before.plan(4), 10, 0.4, 1.7)
    path.write_text(path.read_text() + '{"proposal": [10, "d", [0.')  # killed while it wrote
    again = Stage(path=path)
    assert again.stops(again.plan(4), 10, 0.9, 1.0), (
        "one that was killed before its end was recorded stays stopped"
    )
    assert again.stops(again.plan(5), 10, 0.4, 1.7)
    assert not Stage().stops(again.plan(5), 10, 0.4, 1.7)


def test_a_damaged_line_of_the_reports_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    before = Stage(path=path)
    before.finish_some()
    path.write_text(path.read_text().replace("0.9", "0.8"))
    assert not Stage(path=path).stops(before.plan(4), 10, 0.0, 3.0)


def wrongly_stopped(path: Path | None = None) -> tuple[Stage, PlannedTrial]:
    """A trial that was stopped before it was known that such curves still rise."""
    stage = Stage(path=path)
    stage.finish_some(final=0.5)
    stage.finish(stage.plan(3), 0.9, early=0.7)
    late = stage.plan(4)
    assert stage.stops(late, 10, 0.4, 1.7)
    stage.rules.ended(late, Outcome(Status.PRUNED, figures(0.4, 1.7, 1.0)))
    assert stage.rules.promote() == ()
    # faster, so that nothing else could take their place
    for at in (5, 6):
        stage.finish(stage.plan(at), 0.95, early=0.4, decode=2.0)
    return stage, late


def test_one_that_was_stopped_goes_on_once_curves_like_its_own_have_risen() -> None:
    stage, late = wrongly_stopped()
    assert stage.rules.promote() == [late] and stage.rules.promote() == ()
    assert not stage.stops(late, 10, 0.4, 1.7), "where it goes on it tells again what it told before"
    assert not stage.stops(late, 20, 0.4, 1.6)


def test_all_stopped_seeds_of_a_configuration_go_on_together() -> None:
    stage = Stage(spec_of(seeds=[0, 1]))
    late = [stage.plan(4, seed=seed) for seed in (0, 1)]
    for at, final, early in ((0, 0.5, 0.5), (1, 0.5, 0.5), (2, 0.9, 0.7)):
        for seed in (0, 1):
            stage.finish(stage.plan(at, seed=seed), final, early)
    assert [stage.stops(plan, 10, 0.4, 1.7) for plan in late] == [False, True]
    assert stage.stops(late[0], 20, 0.4, 1.7)
    for plan in reversed(late):
        stage.rules.ended(plan, Outcome(Status.PRUNED, figures(0.4, 1.7, 1.0)))
    for at in (5, 6):
        for seed in (0, 1):
            stage.finish(stage.plan(at, seed=seed), 0.95, early=0.4, decode=2.0)
    assert sorted(plan.seed for plan in stage.rules.promote()) == [0, 1]


def test_a_sweep_that_goes_on_in_another_home_knows_what_has_finished(tmp_path: Path) -> None:
    """Its reports are in the home that it began in; the store tells how its trials ended."""
    began = Stage(path=tmp_path / "reports.jsonl")
    best = began.plan(0)
    began.finish(best, 0.9, 0.5)
    elsewhere, same = Stage(), Stage(path=tmp_path / "reports.jsonl")
    assert same.rules.knows(best.config.key) and not elsewhere.rules.knows(best.config.key)
    elsewhere.rules.learn(best, Outcome(Status.FINISHED, {}))  # MLflow has refused its figures
    elsewhere.rules.learn(best, Outcome(Status.FINISHED, figures(0.9, 0.5, 1.0)))
    for stage in (elsewhere, same):
        (halving,) = stage.rules._rules
        assert isinstance(halving, Halving)
        (known,) = [own for own in halving._all.values() if own.final]
        assert known.final == {0: 0.9} and known.known is not None


def test_a_resumed_sweep_knows_what_was_promoted(tmp_path: Path) -> None:
    stage, late = wrongly_stopped(tmp_path / "reports.jsonl")
    assert stage.rules.promote() == [late]
    path = tmp_path / "reports.jsonl"
    again = Stage(path=path)
    assert again.rules.promote() == () and not again.stops(late, 10, 0.4, 1.7)
    assert going_on(again.spec, path) == {late.config.key}
    stage.rules.ended(late, Outcome(Status.FINISHED, figures(0.9, 0.5, 1.0)))
    assert going_on(again.spec, path) == set()


def test_a_resumed_sweep_builds_each_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, late = wrongly_stopped(tmp_path / "reports.jsonl")
    assert stage.rules.promote() == [late]
    path, built = tmp_path / "reports.jsonl", list[str]()
    trial = SweepSpec.trial

    def counted(spec: SweepSpec, block: SpaceBlock, knobs: Knobs, seed: int) -> TrialConfig:
        built.append(str(knobs))
        return trial(spec, block, knobs, seed)

    monkeypatch.setattr(SweepSpec, "trial", counted)
    Stage(stage.spec, path=path)
    assert len(built) == len(set(built)) == 7
    assert going_on(stage.spec, path) == {late.config.key} and len(built) == 7
    # as an earlier version wrote them
    lines = [unseal(line) for line in path.read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key != "trial"} for line in lines]
    path.write_text("".join(seal(line, indent=None) + "\n" for line in old))
    assert going_on(stage.spec, path) == {late.config.key}


def test_what_two_stores_number_alike_is_not_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    stage = Stage(spec_of(), path=path)
    alike = [stage.plan(5, architecture) for architecture in ("window", "attention")]
    for plan, recall in zip(alike, (0.2, 0.9), strict=True):
        stage.rules.ended(plan, Outcome(Status.FINISHED, figures(recall, 0.1, 1.0)))
    again = Stage(stage.spec, path=path)
    assert all(again.rules.knows(plan.config.key) for plan in alike)


def test_standings_are_those_of_one_comparison_after_the_other() -> None:
    """Against the definition, on figures of two seeds at random."""
    random = np.random.default_rng(0)
    stage = Stage(spec_of(seeds=[0, 1]))
    (halving,) = stage.rules._rules
    assert isinstance(halving, Halving)
    for number in range(12):
        for architecture in ("window", "attention"):
            decode = float(random.integers(1, 4))
            for seed in (0, 1) if random.random() < 0.8 else (0,):
                plan = stage.plan(number, architecture, seed)
                recall, loss = random.integers(0, 4) / 100, float(random.random())
                stage.rules.judge(plan, 10, figures(recall, loss, decode))
                if random.random() < 0.7:
                    stage.rules.ended(plan, Outcome(Status.FINISHED, figures(random.random(), 0.1, decode)))
    configurations = list(halving._all.values())
    whole = [own for own in configurations if len(own.rungs.get(10, {})) == 2]
    assert 0 < len(whole) < len(configurations)
    for own in whole:
        found = halving._standing(10, own, stage.plan(0))
        rivals = [
            r
            for r in configurations
            if r is not own and r.known is not None and own.known is not None
            if r.known[0] >= own.known[0] * 0.99
        ]
        there = [np.mean(list(r.rungs[10].values()), axis=0) for r in rivals if r in whole]
        recall, loss = np.mean(list(own.rungs[10].values()), axis=0)
        ahead = [r > recall if abs(r - recall) > 0.01 else other < loss for r, other in there]
        finals = [np.mean(list(r.final.values())) for r in rivals if len(r.final) == 2]
        assert (found.ahead, found.there) == (sum(ahead), len(there))
        assert found.best == max(finals, default=0.0)


@pytest.mark.parametrize(("metric", "expected"), [("recall", True), ("recall_at_8", False)])
def test_where_a_trial_is_solved_it_is_dominated_by_what_solved_faster(metric: str, expected: bool) -> None:
    rows = [{"input_seq_len": n, "num_kv_pairs": 2, "examples": 64} for n in (8, 16)]
    spec = spec_of(
        task={"validation": rows},
        objectives=[{"metric": metric}, {"metric": "decode_tokens_per_second"}],
        training={"steps": 40, "evaluate_every": 10, "stop_at": {"recall": 0.99}},
        early_stopping=None,
    )
    block, knobs = next(spec.grid())
    others: Knobs = {"training.learning_rate": RATES[1]}
    plan, later = (
        PlannedTrial(Proposal(number, block, own), 0, spec.trial(block, own, 0))
        for number, own in enumerate((knobs, others))
    )
    dominated = Dominated(spec)
    dominated.ended(
        plan,
        Outcome(Status.FINISHED, {f"validation_{metric}": 0.992, "decode_tokens_per_second": 2.0}),
    )
    assert dominated.judge(later, 0, {"decode_tokens_per_second": 3.0}) is None
    verdict = dominated.judge(later, 0, {"decode_tokens_per_second": 1.0})
    assert (verdict is not None) == expected
    assert verdict is None or "even at a recall of 0.99, at which it would end, a finished" in verdict.reason


def test_what_is_dominated_is_so_by_the_means_of_those_that_finished() -> None:
    random = np.random.default_rng(0)
    spec = spec_of(seeds=[0, 1])
    stage, dominated, means = Stage(spec), Dominated(spec), list[tuple[float, float]]()
    for number in range(12):
        recalls, decode = random.random(2), float(random.random())
        recalls += (number % 3 == 0) * (1 - recalls)
        asked = {"decode_tokens_per_second": float(random.random())}
        expected = any(recall >= 1 and speed >= asked["decode_tokens_per_second"] for recall, speed in means)
        verdict = dominated.judge(stage.plan(number, "attention"), 0, asked)
        assert (verdict is not None) == expected
        for seed, recall in enumerate(recalls):
            plan = stage.plan(number, seed=seed)
            dominated.ended(plan, Outcome(Status.FINISHED, figures(float(recall), 0.1, decode)))
        means.append((float(np.mean(recalls)), decode))
    assert len(dominated._edge) < len(means)
