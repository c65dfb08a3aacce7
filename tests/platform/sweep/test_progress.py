"""What a terminal shows of a sweep that runs."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep import progress as progress_module
from recallfront.platform.sweep.progress import Progress
from tests.platform.sweep.stage import FIGURES, Stage, Stages


def progress(sweep: Stage, **more: Any) -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=200, **more)
    return Progress(sweep.conductor, console, total=2, concurrent=1), text


def test_progress_says_what_is_done_running_failed_best_and_left(
    stage: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = stage()
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(time=lambda: sweep.conductor.started))
    monkeypatch.setattr(sweep.conductor, "mean_seconds", lambda: 8.0 if sweep.conductor.best() else None)
    shown, _ = progress(sweep)
    assert shown.line() == "0 s  |  0 of 2 finished"
    sweep.start("a")
    sweep.end("a")
    sweep.start("b")
    line = shown.line()
    assert "1 of 2 finished, 1 running  |  best recall 0.500 (window · window_size 4 · seed 0)" in line
    assert "about 4 s left" in line
    sweep.end("b", Status.ERROR, failure="ours")
    assert "1 of 2 finished, 1 failed" in shown.line()
    best = sweep.conductor.best()
    assert best is not None and best.metrics["validation_recall"] == 0.5


def test_what_is_left_ends_with_the_budget(stage: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = stage(budget={"hours": 1, "training_steps": 10**6})
    monkeypatch.setattr(sweep.conductor, "mean_seconds", lambda: 36_000.0)
    monkeypatch.setattr(sweep.conductor, "elapsed", lambda: 3000.0)
    shown, _ = progress(sweep)
    assert "about 10 min 00 s left" in shown.line()


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
