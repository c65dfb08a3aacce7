"""What a sweep publishes of its front while it runs."""

import time
from pathlib import Path

import pytest

from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.tracking.client import open_client
from tests.platform.sweep.stage import Stages


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
            if "KeyError" in caplog.text:
                break
            time.sleep(0.1)
    assert "KeyError: 'no such font'" in caplog.text
    assert publisher.finish().keys() >= {"html"}
    assert "no such font" in sweep.stored().tags["publishing_failure"]


def test_the_note_has_the_description_the_front_and_the_next_commands(stage: Stages, tmp_path: Path) -> None:
    sweep = stage(description="Why *this* runs")

    def note() -> str:
        return str(open_client(sweep.uri).get_run(sweep.stored().run_id).data.tags["mlflow.note.content"])

    assert note() == "Why \\*this\\* runs"
    sweep.start("a")
    sweep.end("a")
    publisher = Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts")
    publisher.finish()
    told = note()
    parts = [
        "Why \\*this\\* runs",
        "1 of 1 configurations are on the front",
        "| window",
        "\n```\nrecallfront front ",
    ]
    assert all(part in told for part in parts), told
    assert told.endswith(f"recallfront report {sweep.spec.key[:12]} --out report\n```")


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
