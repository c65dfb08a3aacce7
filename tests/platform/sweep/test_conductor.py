"""Conducting a sweep without Ray: what is next, what reports mean, what is recorded, and what a resumed one knows."""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recallfront.platform.keeping.clean import clean
from recallfront.platform.lineage.environment import collect
from recallfront.platform.metrics import BUSY_CORES, MEASURED_AGAIN
from recallfront.platform.results.records import SweepRecord, TrialRecord, count
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import COUNTED, Lost, Status
from recallfront.platform.search.planner import PlannedTrial, Planner
from recallfront.platform.search.samplers import make_search
from recallfront.platform.search.stopping import make_rules
from recallfront.platform.sweep import progress as progress_module
from recallfront.platform.sweep import second_measurement
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.progress import Progress
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.sweep.second_measurement import measure_again
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial import figures, measure, reference
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.workplace import Workplace, trial_folder
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.data import prepare
from tests.platform.specs import tiny_spec
from tests.platform.stores import ready_store

FIGURES = {"validation_recall": 0.5, "recall": 0.4, "decode_tokens_per_second": 9.0}
WINDOWS: list[dict[str, Any]] = [{"architecture": "window", "window_size": [4, 8]}]


class Stage:
    """A conductor with everything it writes to."""

    def __init__(self, spec: SweepSpec, home: Path, writer: TrackingWriter, uri: str) -> None:
        self.spec, self.writer, self.uri = spec, writer, uri
        data = prepare(spec.task, home / "data")
        recorder = Recorder(writer, spec, lineage=collect(home), data=data)
        plain = spec.model_dump(mode="json")
        known = SweepRecord(run_id="", sweep_key=spec.key, name=spec.name, spec=plain, trials=())
        search = make_search(spec)
        rules = make_rules(spec, search, home / "reports.jsonl")
        self.conductor = Conductor(spec, Planner(spec, search, {}), recorder, known, rules)
        recorder.open_sweep()

    def start(self, name: str) -> PlannedTrial:
        plan = self.conductor.next(name)
        assert plan is not None
        return plan

    def end(self, name: str, status: Status = Status.FINISHED, **more: Any) -> None:
        self.conductor.report(name, Report(step=20, figures=FIGURES, status=status, **more))
        self.conductor.ended(name)

    def resumed(self, known: SweepRecord, before: Sequence[TrialRecord] | None = None) -> Conductor:
        """A conductor of the sweep's next run."""
        search = make_search(self.spec)
        planner, rules = Planner(self.spec, search, {}), make_rules(self.spec, search)
        return Conductor(
            self.spec,
            planner,
            self.conductor.recorder,
            known,
            rules,
            known.trials if before is None else before,
        )

    def stored(self) -> SweepRecord:
        assert self.writer.flush(30.0)
        return read_sweep(self.uri, self.spec.key)


Stages = Callable[..., Stage]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stages]:
    uri = ready_store(tmp_path)
    with closing(TrackingWriter(uri, tmp_path / "spool.sqlite")) as writer:
        yield lambda **changes: Stage(tiny_spec(**{"space": WINDOWS} | changes), tmp_path, writer, uri)


def statuses(record: SweepRecord) -> list[Status]:
    return [trial.status for trial in record.trials]


def test_trials_are_recorded_as_they_run_and_end(stage: Stages) -> None:
    sweep = stage()
    first, second = sweep.start("a"), sweep.start("b")
    assert [p.config.model.model_dump()["window_size"] for p in (first, second)] == [4, 8]
    assert sweep.conductor.next("c") is None
    rows = [("loss", 1.5, 1, 1000), ("loss", 1.25, 2, 2000)]
    sweep.conductor.report("a", Report(step=2, rows=rows, figures={"validation_recall": 0.1}))
    assert statuses(sweep.conductor.record()) == [Status.RUNNING, Status.RUNNING]
    assert sweep.conductor.record().trials[0].metrics == {"validation_recall": 0.1}
    assert [t.tags.get("steps") for t in sweep.stored().trials] == ["2", None], "what the pages tell of them"
    sweep.end("a")
    sweep.end("b", Status.DIVERGED, failure="loss is nan at step 3 of 20")
    stored = sweep.stored().trials
    assert [t.status for t in stored] == [Status.FINISHED, Status.DIVERGED]
    assert stored[0].metrics == FIGURES | {"loss": 1.25} and stored[0].trial_key == first.config.key
    assert stored[1].failure == "loss is nan at step 3 of 20"
    assert sweep.conductor.ran == 2 and sweep.conductor.changed.is_set()
    assert sweep.conductor.record().trials[0].run_id in ("", stored[0].run_id)


@pytest.mark.parametrize(
    "loss",
    [Lost("its node died"), Lost("no memory was left", Status.OUT_OF_MEMORY, {"peak_memory_bytes": 2.0**30})],
    ids=lambda loss: loss.status.value,
)
def test_a_lost_trial_says_how(stage: Stages, loss: Lost) -> None:
    sweep = stage()
    sweep.start("a")
    sweep.conductor.retried("a")
    sweep.conductor.ended("a", lost=loss)
    (trial,) = sweep.stored().trials
    assert (trial.status, trial.failure, trial.tags["attempts"]) == (loss.status, loss.failure, "2")
    assert trial.metrics.items() >= loss.figures.items()


def test_a_dominated_trial_is_recorded_with_its_reason_and_never_trained(stage: Stages) -> None:
    sweep = stage(search={"skip_dominated": True})
    sweep.start("a")
    solved = FIGURES | {"validation_recall": 1.0}
    sweep.conductor.report("a", Report(step=20, figures=solved, status=Status.FINISHED))
    sweep.conductor.ended("a")
    sweep.start("b")
    measured = Report(step=0, figures={"decode_tokens_per_second": 8.0})
    assert not sweep.conductor.goes_on("b", measured)
    sweep.conductor.report("b", measured)
    sweep.conductor.ended("b")
    assert statuses(sweep.stored()) == [Status.FINISHED, Status.DOMINATED]
    dominated = sweep.stored().with_status(Status.DOMINATED)[0]
    assert dominated.failure == (
        "even at a recall of 1 a finished configuration is at least as good (decode_tokens_per_second 8)"
    )
    assert count(sweep.conductor.record()) == dict.fromkeys(COUNTED, 0) | {"finished": 1, "pruned": 1}


def test_looking_ahead_records_nothing_and_impossible_ones_are_recorded_once(stage: Stages) -> None:
    sweep = stage(space=[{"architecture": "attention", "num_heads": [3, 4]}])
    assert sweep.conductor.has_trial() and sweep.stored().trials == ()
    assert sweep.start("a").config.model.num_heads == 4
    sweep.end("a")
    assert not sweep.conductor.has_trial() and sweep.conductor.next("b") is None
    invalid, finished = sweep.stored().trials
    assert (invalid.status, finished.status) == (Status.INVALID, Status.FINISHED)
    assert "num_heads is 3" in str(invalid.failure)


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
    known = sweep.stored()
    assert 2000 <= float(known.tags["elapsed_seconds"]) < 2600, "also of a driver that is killed now"
    again = sweep.resumed(known)
    assert again.has_trial()
    again.started -= 1700
    assert not again.has_trial() and again.out_of_budget()


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
        "budget.training_steps: the runs of this sweep have used its 30; raise it to go on"
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


def test_a_drawing_error_is_recorded_and_the_next_attempt_draws(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = stage()
    publisher = Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts")
    sweep.start("a")

    def fail(*_: object) -> None:
        raise KeyError("no such font")

    with monkeypatch.context() as patch, publisher:
        patch.setattr(Publisher, "_draw", fail)
        sweep.end("a")
        for _ in range(100):
            if caplog.records:
                break
            time.sleep(0.1)
    assert "KeyError: 'no such font'" in caplog.text
    assert publisher.finish().keys() >= {"html"}
    assert "no such font" in sweep.stored().tags["publishing_failure"]


def test_clean_deletes_the_checkpoints_of_trials_that_ended_for_good(stage: Stages, tmp_path: Path) -> None:
    sweep = stage()
    code, data = sweep.conductor.recorder.version.values()
    checkpoints = []
    for name in ("ended", "goes on"):
        folder = tmp_path / "trials" / trial_folder(sweep.start(name).config.key, code, data)
        checkpoints.append(folder / "checkpoint")
        checkpoints[-1].mkdir(parents=True)
        (checkpoints[-1] / "moments").write_text("12345")
    sweep.end("ended", Status.DIVERGED)
    sweep.stored()
    (found,) = clean(home=tmp_path, dry_run=True)
    assert (found.folder, found.status, found.bytes) == (checkpoints[0].parent, Status.DIVERGED, 5)
    assert all(path.exists() for path in checkpoints)
    assert clean(home=tmp_path) == [found]
    assert [path.exists() for path in checkpoints] == [False, True]
    assert clean(home=tmp_path) == []


def test_how_many_were_proposed_is_recorded(stage: Stages) -> None:
    sweep = stage(
        search={"method": "random", "trials": 5}, space=[{"architecture": "window", "window_size": [4, 8]}]
    )
    started = 0
    while sweep.conductor.next(f"{started}") is not None:
        sweep.end(f"{started}")
        started += 1
    assert started == 2 and sweep.conductor.answered == 0
    assert "the search ended after 2 of 5 configurations" in sweep.conductor.notes[-1]
    tag = json.loads(sweep.stored().tags["proposed"])
    assert tag == {"number": 2, **sweep.conductor.recorder.version}


def progress(sweep: Stage, **more: Any) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=200, **more)
    return Progress(sweep.conductor, console, total=2, concurrent=1), text


def test_progress_says_what_is_done_running_failed_best_and_left(stage: Stages) -> None:
    sweep = stage()
    shown, _ = progress(sweep)
    assert shown.line() == "0 s  |  0 of 2 finished"
    sweep.start("a")
    sweep.end("a")
    sweep.start("b")
    line = shown.line()
    assert "1 of 2 finished, 1 running  |  best recall 0.500 (window · window_size 4 · seed 0)" in line
    assert "about 0 s left" in line
    sweep.end("b", Status.ERROR, failure="ours")
    assert "1 of 2 finished, 1 failed" in shown.line()
    best = sweep.conductor.best()
    assert best is not None and best.metrics["validation_recall"] == 0.5


def test_the_live_picture_has_a_line_for_each_running_trial(stage: Stages) -> None:
    sweep = stage()
    sweep.start("a")
    sweep.conductor.report("a", Report(step=10, figures=FIGURES | {"validation_recall": 0.0}))
    shown, text = progress(sweep, force_terminal=True)
    Console(file=text, width=200).print(shown.picture())
    assert "window · window_size 4 · seed 0" in text.getvalue() and "recall 0.000" in text.getvalue()
    with shown:
        pass  # it starts, draws and ends


def test_without_a_terminal_progress_is_plain_lines(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_LINE_SECONDS", 0.05)
    shown, text = progress(stage(), force_terminal=False)
    with shown:
        for _ in range(100):
            if text.getvalue().count("\n") >= 2:
                break
            shown._done.wait(0.05)
    lines = text.getvalue().splitlines()
    assert len(lines) >= 2 and all("0 of 2 finished" in line for line in lines)


def test_a_measurement_in_doubt_is_made_again_after_the_trials(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = 2.0
    monkeypatch.setattr(figures, "_seconds", lambda run, device: run() or 0.01)
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: busy)
    monkeypatch.setattr(reference, "_SCALE_SECONDS", 0.0)
    place = Workplace(home=tmp_path, data=tmp_path, data_digest="d", code_version="c")
    sweep = stage(
        space=[{"architecture": "window", "window_size": 4, "training.learning_rate": [0.001, 0.01]}],
        seeds=[0, 1],
        measurement={"max_repeats": 4},
    )
    for name in ("a", "b", "c", "d"):
        config = sweep.start(name).config
        with closing(Device("cpu", tmp_path / "locks")) as device:
            found = measure.measured(config, device=device, folder=place.measurements, code_version="c")
        numbers, _ = measure.as_metrics(found)
        sweep.conductor.report(name, Report(step=20, figures=FIGURES | numbers, status=Status.FINISHED))
        sweep.conductor.ended(name)
    monkeypatch.setattr(sweep.conductor, "out_of_budget", lambda: True)
    said: list[str] = []
    again = partial(measure_again, sweep.conductor, place, joined=False, tell=said.append)
    assert again() is None
    monkeypatch.undo()
    monkeypatch.setattr(figures, "_seconds", lambda run, device: run() or 0.01)
    monkeypatch.setattr(figures, "_wait_for_idle_neighbours", lambda threads, patience: 0.0)
    monkeypatch.setattr(reference, "_SCALE_SECONDS", 0.0)
    told = again()
    # of one shape: learning rates and seeds share it
    assert said == [
        "throughput in doubt is measured again, 1 of 1: window · training.learning_rate 0.001 · seed 0"
    ]
    assert told is not None and "4 trials have better figures, 0 are still in doubt" in told
    for trials in (sweep.stored().trials, sweep.conductor.record().trials):
        assert [(t.metrics[MEASURED_AGAIN], t.metrics[BUSY_CORES]) for t in trials] == [(1, 0)] * 4
    assert again() is None, "nothing is in doubt any more"


def test_a_second_measurement_that_fails_leaves_the_figures(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody else has filled the GPU by then."""

    def fails(*arguments: object, **options: object) -> None:
        raise MemoryError("only 1.0 GiB are free")

    monkeypatch.setattr(second_measurement, "_measured", fails)
    sweep = stage(measurement={"max_repeats": 4})
    doubtful = FIGURES | {"decode_tokens_per_second_spread": 8.0, BUSY_CORES: 2.0}
    for name in ("a", "b"):
        sweep.start(name)
        sweep.conductor.report(name, Report(step=20, figures=doubtful, status=Status.FINISHED))
        sweep.conductor.ended(name)
    place = Workplace(home=tmp_path, data=tmp_path, data_digest="d", code_version="c")
    said: list[str] = []
    told = measure_again(sweep.conductor, place, joined=False, tell=said.append)
    assert told is not None and "0 trials have better figures, 2 are still in doubt" in told
    assert said[1] == "it could not be measured: only 1.0 GiB are free"
    assert [trial.metrics for trial in sweep.stored().trials] == [doubtful] * 2


def test_the_hypervolume_that_is_told_last_is_that_of_figures_measured_again(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = stage()
    for name in ("a", "b"):
        sweep.start(name)
        sweep.end(name)
    publisher = Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts")
    publisher._try_to_publish()
    for trial in sweep.conductor.record().trials:
        assert sweep.conductor.measured_again(trial, {"decode_tokens_per_second": 7.0}, {})
    monkeypatch.setattr(sweep.conductor, "elapsed", lambda: 100.0)
    publisher.finish()
    told = open_client(sweep.uri).get_run(sweep.stored().run_id).data.metrics
    assert publisher.front is not None and publisher.front.hypervolume == pytest.approx(0.5 * 7.0)
    assert told["hypervolume_by_elapsed_seconds"] == publisher.front.hypervolume < told["hypervolume"]
