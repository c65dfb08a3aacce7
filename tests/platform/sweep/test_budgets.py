"""A sweep's budget: one over all of its runs, told while it lasts."""

from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.platform.front.claims import ClaimVerdict, Judgement, judge
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.budget import Budget
from recallfront.platform.sweep.publisher import Publisher
from tests.platform.sweep.stage import FIGURES, Stages, statuses


def test_after_the_budget_no_further_trial_starts(stage: Stages) -> None:
    sweep = stage(budget={"hours": 1.0})
    sweep.start("a")
    sweep.conductor.started -= 3601
    assert sweep.conductor.next("b") is None and not sweep.conductor.has_trial()
    sweep.end("a")
    assert statuses(sweep.stored()) == [Status.FINISHED]


def test_the_budget_is_one_over_all_runs(stage: Stages) -> None:
    sweep = stage(budget={"hours": 1.0})
    sweep.start("a")
    sweep.conductor.started -= 2000
    sweep.conductor.report("a", Report(step=10))
    sweep.conductor.tell_time()
    known = sweep.stored()
    assert 2000 <= float(known.tags["elapsed_seconds"]) < 2600, "also of a driver that is killed now"
    again = sweep.resumed(known)
    assert again.has_trial()
    again.started -= 1700
    assert not again.has_trial() and again.out_of_budget()


def test_claims_wait_for_what_the_budget_left_out(stage: Stages, tmp_path: Path) -> None:
    """A search of 5 configurations of a space that has 2 is at its end after both."""
    claim = {"id": "recalls", "sentence": "It recalls.", "measures": {"m": "mean recall"}}
    asked = {
        "search": {"method": "random", "trials": 5},
        "claims": [claim | {"condition": "m > 0", "seeds": 1}],
    }

    def run(budget: int) -> tuple[Judgement, Judgement]:
        """The verdict at the end of a run of the sweep, and what the store tells of it."""
        sweep = stage(**asked, budget={"trials": budget})
        assert sweep.stored().tags["exhausted"] == "False"
        conductor = sweep.conductor
        while conductor.next("a") is not None:
            sweep.end("a")
        (judged,) = Publisher(conductor, conductor.recorder, tmp_path / "fronts").judge()
        conductor.recorder.close_sweep(finished=True, exhausted=conductor.is_exhausted())
        (told,) = judge(sweep.stored())
        return judged, told

    for judged in run(budget=1):
        assert (judged.verdict, judged.reason) == (ClaimVerdict.UNDECIDED, "1 of 5 trials have ended")
    for budget in (3, 2):  # of two trials: it is used up as the search ends
        for judged in run(budget):
            assert judged.verdict is ClaimVerdict.SUPPORTED


def test_steps_and_trials_are_counted_over_all_runs(stage: Stages) -> None:
    sweep = stage(budget={"training_steps": 30, "trials": 5})
    sweep.start("a")
    sweep.conductor.report("a", Report(step=10))
    assert sweep.conductor.budget_left() == "budget left: 5 trials, 20 training steps"
    sweep.end("a")
    assert sweep.conductor.budget_left() == "budget left: 4 trials, 10 training steps"
    sweep.conductor.interrupted()
    again = sweep.resumed(sweep.stored())
    assert again.budget_left() == "budget left: 4 trials, 10 training steps" and again.has_trial()
    again.next("b")  # the same trial, as this planner knows of none that has ended
    again.report("b", Report(step=30))
    assert again.out_of_budget() == (
        "budget.training_steps: the runs of this sweep have used its 30; raise it to continue"
    )


def test_steps_count_once_however_often_a_trial_begins_again(stage: Stages) -> None:
    sweep = stage(budget={"training_steps": 40})
    sweep.start("a")
    for step in (0, 10, 0, 10, 20):  # a retry goes on from a checkpoint
        sweep.conductor.report("a", Report(step=step))
    assert sweep.conductor.steps() == 20
    sweep.conductor.interrupted()
    again = sweep.resumed(sweep.stored())
    again.next("b")
    again.report("b", Report(step=20))
    assert again.steps() == 20
    again.report("b", Report(step=30))
    assert again.steps() == 30


def test_between_two_attempts_nothing_is_counted(stage: Stages) -> None:
    """The driver is interrupted on Friday, and the sweep goes on on Monday."""
    sweep = stage(budget={"device_hours": 1.0})
    first = sweep.start("a")
    sweep.conductor.interrupted()
    (stopped,) = sweep.stored().trials
    assert stopped.status is Status.LOST and 0 <= float(stopped.tags["run_seconds"]) < 60
    friday = replace(stopped, start_time=stopped.start_time - 250_000)
    again = sweep.resumed(replace(sweep.stored(), trials=()), [friday])
    plan = again.next("b")
    assert plan is not None and plan.config.key == first.config.key
    again.report("b", Report(step=20, figures=FIGURES, status=Status.FINISHED))
    again.ended("b")
    (ended,) = again.record().trials
    assert float(stopped.tags["run_seconds"]) <= ended.seconds < 60 and again.out_of_budget() is None
    assert sweep.stored().trials[0].seconds == pytest.approx(ended.seconds, abs=0.1)


def test_what_waits_for_a_place_takes_no_device(stage: Stages) -> None:
    """For its process, for workers, or after a loss: others have the device then."""
    sweep = stage(budget={"device_hours": 1.0})
    sweep.start("a")
    live = sweep.conductor._live["a"]
    live.started -= 7200
    sweep.conductor.report("a", Report(step=0, seconds={"measure": 100.0}))
    sweep.conductor.retried("a")
    assert live.since is None
    (running,) = sweep.conductor._running_seconds().values()
    assert 100 <= running < 110, "what was measured before the first report counts"
    # its next process only reads how it ended, in an attempt that was measured
    sweep.end("a", seconds={"measure": 1000.0})
    (trial,) = sweep.stored().trials
    assert 100 <= trial.seconds < 110 and sweep.conductor.out_of_budget() is None


def test_what_is_left_of_the_gain_is_told_and_a_sweep_that_adds_nothing_ends(
    stage: Stages, tmp_path: Path
) -> None:
    block = {"architecture": "window", "window_size": [2, 4, 6, 8]}
    sweep = stage(space=[block], budget={"min_gain": 0.01, "gain_trials": 1})
    sweep.start("a")
    left = "budget left: gain of the last 1 trials {} (ends below 1.00%)"
    assert sweep.conductor.budget_left() == left.format("not known yet")
    sweep.end("a")
    assert sweep.conductor.budget_left() == left.format("100.00% of the hypervolume")
    sweep.start("b")
    sweep.end("b")
    assert sweep.conductor.next("c") is None
    assert str(sweep.conductor.out_of_budget()).startswith("budget.min_gain: its last 1 trials added 0.00%")
    Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts").tell_counts()
    assert sweep.stored().tags["budget_left"] == left.format("0.00% of the hypervolume")


def test_a_first_lucky_seed_is_no_configuration(stage: Stages) -> None:
    """With two seeds the second configuration raises the mean of the first one, whose lucky seed it does not reach."""
    sweep = stage(seeds=[0, 1], budget={"min_gain": 0.01, "gain_trials": 2})

    def end(name: str, recall: float) -> None:
        sweep.start(name)
        figures = FIGURES | {"validation_recall": recall}
        sweep.conductor.report(name, Report(step=20, figures=figures, status=Status.FINISHED))
        sweep.conductor.ended(name)

    for name, recall in (("a", 0.9), ("b", 0.1), ("c", 0.6)):
        end(name, recall)
    assert sweep.conductor.out_of_budget() is None
    end("d", 0.6)
    assert sweep.conductor.out_of_budget() is None
    assert "gain of the last 2 trials 16.67%" in sweep.conductor.budget_left()


def test_a_finished_trial_that_lacks_an_objective_adds_nothing(stage: Stages) -> None:
    sweep = stage(budget={"min_gain": 0.01, "gain_trials": 1}, early_stopping={"first_rung_steps": 10})
    sweep.start("a")
    sweep.conductor.report("a", Report(step=20, figures={"recall": 0.4}, status=Status.FINISHED))
    assert sweep.conductor.ended("a") is Status.FINISHED
    assert "not known yet" in sweep.conductor.budget_left()


def test_a_trial_that_is_promoted_counts_once_among_the_last(stage: Stages) -> None:
    sweep = stage(budget={"min_gain": 0.01, "gain_trials": 2})
    for name in "ab":
        sweep.start(name)
        sweep.end(name)
    record = sweep.stored()
    first, second = record.trials
    budget = Budget(sweep.spec, replace(record, trials=()))
    for trial in (first, replace(second, status=Status.PRUNED), second):
        budget.ended(trial)
    assert budget.used_up(0.0) is None
    assert "gain of the last 2 trials 100.00%" in budget.left(0.0)


def test_a_search_that_models_recall_looks_ahead(stage: Stages) -> None:
    """What the last trials added says little of the next: a search knows what it expects of them."""
    block = {"architecture": "window", "window_size": list(range(2, 16))}
    search = {"method": "front", "trials": 14, "startup_trials": 4}
    sweep = stage(space=[block], search=search, budget={"min_gain": 0.9, "gain_trials": 2})

    def end(name: str) -> None:
        sweep.start(name)
        sweep.end(name)

    left = "budget left: expected gain of the next 2 trials {} (ends below 90.00%)"
    for name in "abc":  # the last two have added nothing
        end(name)
        assert sweep.conductor.budget_left() == left.format("not known yet")
    end("d")
    expected = sweep.conductor._planner.expects(2)
    assert expected is not None and expected > 0
    gain = f"{expected / (0.5 * 9.0):.2%} of the hypervolume"
    assert sweep.conductor.budget_left() == left.format(gain)
    told = f"budget.min_gain: the next 2 trials are expected to add {gain}, and 90.00% are wanted"
    assert str(sweep.conductor.out_of_budget()).startswith(told)
    assert sweep.conductor.next("e") is None
