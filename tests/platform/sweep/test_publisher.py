"""What a sweep publishes of its front while it runs."""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.sweep.run import _set_up
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.sweep.stage import FIGURES, Stage, Stages
from tests.platform.sweeps import workplace


def next_run(sweep: Stage, home: Path, writer: TrackingWriter, version: str = "") -> Conductor:
    """The conductor of the sweep's next run, which writes to this spool; `version`: of its code, if it is another."""
    place, lineage = workplace(sweep.spec, home), collect(home)
    if version:
        place = replace(place, code_version=version)
        lineage = lineage.model_copy(update={"code_version": version})
    conductor, _ = _set_up(sweep.spec, place, writer, sweep.uri, lineage)
    conductor.recorder.open_sweep()
    return conductor


def fail(*_: object) -> None:
    raise KeyError("no such font")


def run_trial(conductor: Conductor, recall: float) -> None:
    """Run the next trial; as all are equally fast, the front is the one of highest recall."""
    assert conductor.next("next") is not None
    figures = FIGURES | {"validation_recall": recall}
    conductor.report("next", Report(step=20, figures=figures, status=Status.FINISHED))
    conductor.ended("next")


def tags_after(sweep: Stage, conductor: Conductor, writer: TrackingWriter, folder: Path) -> dict[str, str]:
    """Code and window of each trial -> its tag, when this run of the sweep has ended."""
    Publisher(conductor, conductor.recorder, folder).finish()
    assert writer.flush(30.0) and writer.rejected() == 0
    own = conductor.recorder.version["code_version"]
    return {
        f"{'now' if trial.tags['code_version'] == own else 'before'}, {trial.config['model']['window_size']}": (
            trial.tags.get("on_front", "never")
        )
        for trial in sweep.stored().trials
    }


def test_a_drawing_error_is_recorded_and_the_next_attempt_draws(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = stage()
    publisher = Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts")
    sweep.start("a")
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
    assert told.endswith(f"recallfront report {sweep.spec.key[:8]} --out report\n```")


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


def test_the_runs_of_the_front_can_be_told_in_mlflow(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their names, and by a tag that is written only where it changes."""
    sweep = stage()
    sweep.start("a")
    sweep.end("a")
    sweep.start("b")
    slow = FIGURES | {"validation_recall": 0.4, "decode_tokens_per_second": 8.0}
    sweep.conductor.report("b", Report(step=20, figures=slow, status=Status.FINISHED))
    sweep.conductor.ended("b")
    told, write = list[str](), sweep.writer.tags

    def tags(run_key: str, values: dict[str, str]) -> None:
        told.extend(value for name, value in values.items() if name == "recallfront.on_front")
        write(run_key, values)

    monkeypatch.setattr(sweep.writer, "tags", tags)

    def published(conductor: Conductor) -> dict[str, str | None]:
        """Name of each trial's run -> its tag, when the sweep has ended."""
        told.clear()
        Publisher(conductor, conductor.recorder, tmp_path / "fronts").finish()
        runs = [open_client(sweep.uri).get_run(trial.run_id) for trial in sweep.stored().trials]
        return {run.info.run_name: run.data.tags.get("recallfront.on_front") for run in runs}

    first, second = "window · window_size 4 · seed 0", "window · window_size 8 · seed 0"
    assert published(sweep.conductor) == {first: "true", second: None} and told == ["true"]
    again = sweep.resumed(sweep.stored())
    assert published(again) == {first: "true", second: None} and told == []
    (trial,) = (trial for trial in again.record().trials if trial.config["model"]["window_size"] == 8)
    better = {"validation_recall": 0.9, "decode_tokens_per_second": 99.0}
    assert again.measured_again(trial, better, {})
    assert published(again) == {first: "false", second: "true"} and told == ["false", "true"]


def test_the_tags_are_right_after_a_run_in_another_home_and_with_other_code(
    stage: Stages, tmp_path: Path
) -> None:
    sweep, fronts = stage(), tmp_path / "fronts"
    run_trial(sweep.conductor, 0.5)
    assert tags_after(sweep, sweep.conductor, sweep.writer, fronts) == {"now, 4": "true"}
    with closing(TrackingWriter(sweep.uri, tmp_path / "elsewhere.sqlite")) as writer:
        elsewhere = next_run(sweep, tmp_path, writer)
        run_trial(elsewhere, 0.9)
        found = tags_after(sweep, elsewhere, writer, fronts)
        assert found == {"now, 4": "false", "now, 8": "true"}
    newer = next_run(sweep, tmp_path, sweep.writer, version="newer")
    run_trial(newer, 0.1)
    found = tags_after(sweep, newer, sweep.writer, fronts)
    assert found == {"before, 4": "false", "before, 8": "false", "now, 4": "true"}
    newest = next_run(sweep, tmp_path, sweep.writer, version="newest")
    assert set(tags_after(sweep, newest, sweep.writer, fronts).values()) == {"false"}, "none has finished"


def test_a_run_that_lost_the_tag_of_its_key_is_left_as_it_is(stage: Stages, tmp_path: Path) -> None:
    sweep, fronts = stage(), tmp_path / "fronts"
    run_trial(sweep.conductor, 0.5)
    assert tags_after(sweep, sweep.conductor, sweep.writer, fronts) == {"now, 4": "true"}
    (trial,) = sweep.stored().trials
    open_client(sweep.uri).delete_tag(trial.run_id, "recallfront.run_key")
    with closing(TrackingWriter(sweep.uri, tmp_path / "elsewhere.sqlite")) as writer:
        elsewhere = next_run(sweep, tmp_path, writer)
        run_trial(elsewhere, 0.4)
        assert tags_after(sweep, elsewhere, writer, fronts) == {"now, 4": "true", "now, 8": "never"}


def test_a_damaged_trial_that_runs_again_and_leaves_the_front_is_tagged_so(
    stage: Stages, tmp_path: Path
) -> None:
    sweep, fronts = stage(), tmp_path / "fronts"
    for recall in (0.5, 0.4):
        run_trial(sweep.conductor, recall)
    found = tags_after(sweep, sweep.conductor, sweep.writer, fronts)
    assert found == {"now, 4": "true", "now, 8": "never"}
    open_client(sweep.uri).log_metric(sweep.stored().trials[0].run_id, "recall", 0.1, step=20)
    again = next_run(sweep, tmp_path, sweep.writer)
    run_trial(again, 0.3)
    found = tags_after(sweep, again, sweep.writer, fronts)
    assert found == {"now, 4": "false", "now, 8": "true"}


def test_a_front_that_cannot_be_drawn_is_tagged_all_the_same(
    stage: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = stage()
    run_trial(sweep.conductor, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_draw", fail)
        found = tags_after(sweep, sweep.conductor, sweep.writer, tmp_path / "fronts")
    assert found == {"now, 4": "true"} and "publishing_failure" in sweep.stored().tags
