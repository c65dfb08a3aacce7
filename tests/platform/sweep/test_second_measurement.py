"""Measurements in doubt are made again after the trials."""

from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recallfront.platform.metrics import BUSY_CORES, MEASURED_AGAIN
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import second_measurement
from recallfront.platform.sweep.cancelled import Cancelled
from recallfront.platform.sweep.second_measurement import measure_again
from recallfront.platform.tracking.spool import Spool
from recallfront.platform.trial import figures, measure, reference
from recallfront.platform.trial.quiet import Device
from recallfront.platform.trial.workplace import Workplace
from tests.platform.sweep.stage import FIGURES, Stages


def test_a_measurement_in_doubt_is_made_again_after_the_trials(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = 2.0
    monkeypatch.setattr(figures, "_run_seconds", lambda run, device: run() or 0.01)
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
    monkeypatch.setattr(figures, "_run_seconds", lambda run, device: run() or 0.01)
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
    with monkeypatch.context() as patch:
        patch.setattr(sweep.conductor, "cancellation", "cancelled by somebody")
        with pytest.raises(Cancelled, match="cancelled by somebody"):
            measure_again(sweep.conductor, place, joined=False, tell=said.append)
    assert said == []
    told = measure_again(sweep.conductor, place, joined=False, tell=said.append)
    assert told is not None and "0 trials have better figures, 2 are still in doubt" in told
    assert said[1] == "it could not be measured: only 1.0 GiB are free"
    assert [trial.metrics for trial in sweep.stored().trials] == [doubtful] * 2


def test_a_driver_that_is_killed_as_it_notes_a_second_measurement_leaves_no_trial_damaged(
    stage: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = stage()
    sweep.start("a")
    sweep.end("a")
    (trial,) = sweep.stored().trials
    append, appended = Spool.append, list[str]()

    def once(spool: Spool, run_key: str, events: Iterable[tuple[str, int, Any]]) -> None:
        if appended:
            raise InterruptedError("killed")
        appended.append(run_key)
        append(spool, run_key, events)

    with monkeypatch.context() as killed, pytest.raises(InterruptedError):
        killed.setattr(Spool, "append", once)
        sweep.conductor.measured_again(trial, {"decode_tokens_per_second": 7.0}, {})
    (found,) = sweep.stored().trials
    assert (found.status, found.metrics["decode_tokens_per_second"]) == (Status.FINISHED, 7.0)
