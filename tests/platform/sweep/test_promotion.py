"""A trial that a rule has ended goes on from its checkpoint once the rule would not end it any more."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from recallfront.platform import SweepResult, run_sweep
from recallfront.platform.results.status import Status
from recallfront.platform.search.planner import Outcome, PlannedTrial
from recallfront.platform.search.rules import Rule, Rules, Ruling
from recallfront.platform.sweep import run
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.trial.body import run_trial
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_home
from tests.platform.sweeps import history, stored, workplace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


class Reprieve(Rule):
    """Ends every trial of a window of 4 at step 10, once, and lets it go on when another trial has finished."""

    def __init__(self, home: Path) -> None:
        self.trials, self.saved = home / "trials", list[Path]()  # checkpoints when a trial was promoted
        self.ended_early: list[PlannedTrial] = []
        self.reprieved: list[PlannedTrial] = []
        self.steps: list[int] = []  # that the trial has reported since
        self.others = 0

    def judge(self, plan: PlannedTrial, step: int, figures: Mapping[str, float]) -> Ruling | None:
        if plan in self.reprieved:
            self.steps.append(step)
            return None
        ends = step == 10 and plan.proposal.knobs["window_size"] == 4
        return Ruling(Status.PRUNED, "its time has not come") if ends else None

    def ended(self, plan: PlannedTrial, outcome: Outcome) -> None:
        self.others += outcome.status is Status.FINISHED
        if outcome.status is Status.PRUNED:
            self.ended_early.append(plan)

    def promotable(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        return self.ended_early[:1] if self.others else ()

    def promoted(self, plan: PlannedTrial) -> None:
        self.reprieved.append(plan)
        self.saved += self.trials.glob("*/checkpoint")
        self.ended_early.remove(plan)


@pytest.mark.parametrize("concurrent", [1, 2])
def test_a_promoted_trial_ends_as_if_it_had_never_been_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrent: int
) -> None:
    spec = tiny_spec(
        space=[{"architecture": "window", "window_size": [4, 8]}],
        training={"steps": 40, "checkpoint_seconds": 3600},
        concurrent=concurrent,
    )
    rule = Reprieve(tmp_path / "home")
    monkeypatch.setattr(run, "make_rules", lambda spec, search, path: Rules(spec, [rule], path))
    result = run_sweep(spec, home=ready_home(tmp_path / "home"))
    assert len(rule.reprieved) == 1 and rule.steps[0] == 0 and rule.steps[1:] == [10, 20, 30]
    # with one worker the actor has taken another trial meanwhile, and saved this one before
    assert concurrent > 1 or len(rule.saved) == 1
    trials = stored(result)
    assert [trial.status for trial in trials] == [Status.FINISHED] * 2
    assert [trial.failure for trial in trials] == [None, None], "that it was ended is no longer told"
    (rest,) = [rest for trial in trials for rest in trial.rests]
    assert rest[0] < rest[1], "from its early end until it went on"
    place = workplace(spec, tmp_path / "undisturbed")
    for trial in trials:
        config = spec.trial(spec.blocks[0], {"window_size": trial.config["model"]["window_size"]}, 0)
        rows = [row for report in run_trial(config, place) for row in report.rows]
        expected = sorted((step, value) for name, value, step, _ in rows if name == "loss")
        assert len(expected) == 40 and history(result, trial.run_id, "loss") == expected
    assert not list((tmp_path / "home" / "trials").glob("*/checkpoint*"))
    tags = read_sweep(result.tracking_uri, spec.key).tags
    assert tags["training_steps"] == "80", "those before it was ended count once"


class ReprieveOfBoth(Reprieve):
    """As above, of both seeds at once."""

    def promotable(self, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        return tuple(self.ended_early) if self.others else ()


def test_what_is_promoted_when_the_driver_ends_goes_on_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds were ended at step 10 and go on; the budget ends the sweep before the second one's turn."""
    home = ready_home(tmp_path / "home")
    monkeypatch.setattr(
        run, "make_rules", lambda spec, search, path: Rules(spec, [ReprieveOfBoth(home)], path)
    )

    def swept(steps: int) -> SweepResult:
        spec = tiny_spec(
            space=[{"architecture": "window", "window_size": [4, 8]}],
            seeds=[0, 1],
            training={"steps": 20, "checkpoint_seconds": 3600},
            budget={"training_steps": steps},
            concurrent=1,
        )
        return run_sweep(spec, home=home)

    # 10 and 10 before they are ended, 20 of the next, and 10 of the first one that goes on
    # the second one is to be run: it has not ended any more
    assert sorted(trial.status for trial in stored(swept(45))) == [Status.FINISHED] * 2 + [Status.LOST]
    assert len(list((home / "trials").glob("*/checkpoint"))) == 1
    second = swept(1000)
    assert [trial.status for trial in stored(second)] == [Status.FINISHED] * 4 and second.ran == 2
    assert read_sweep(second.tracking_uri, second.record.sweep_key).tags["training_steps"] == "80"
    assert not list((home / "trials").glob("*/checkpoint*"))


def test_what_the_last_look_of_a_sweep_promotes_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget ends the sweep with its last planned trial: its next run has nothing to run but what it promotes."""
    home = ready_home(tmp_path / "home")
    monkeypatch.setattr(run, "make_rules", lambda spec, search, path: Rules(spec, [Reprieve(home)], path))

    def swept(steps: int) -> SweepResult:
        spec = tiny_spec(
            space=[{"architecture": "window", "window_size": [4, 8]}],
            training={"steps": 20, "checkpoint_seconds": 3600},
            budget={"training_steps": steps},
            concurrent=1,
        )
        return run_sweep(spec, home=home)

    assert sorted(trial.status for trial in stored(swept(30))) == [Status.FINISHED, Status.PRUNED]
    assert [trial.status for trial in stored(swept(1000))] == [Status.FINISHED] * 2
