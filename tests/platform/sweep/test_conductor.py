"""Conducting a sweep without Ray: what is next, what reports mean, what is recorded, and what a resumed one knows."""

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import cast

import pytest
from ray.tune.experiment import Trial

from recallfront.platform.cluster.fit import Room
from recallfront.platform.front.claims import ClaimVerdict, Judgement
from recallfront.platform.keeping.clean import Leftover, clean
from recallfront.platform.lineage.environment import collect
from recallfront.platform.results.records import count
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import COUNTED, Lost, Status
from recallfront.platform.search.planner import PlannedTrial
from recallfront.platform.search.rules import Rules
from recallfront.platform.sweep.conductor import Conductor
from recallfront.platform.sweep.publisher import Publisher
from recallfront.platform.sweep.recorder import Recorder
from recallfront.platform.sweep.tune import _Ends
from recallfront.platform.sweep.waiting import Waiting
from recallfront.platform.tracking.client import open_client
from recallfront.platform.trial.holding import held
from recallfront.platform.trial.workplace import Workplace, trial_folder
from recallfront.sweeps.claims import Claim
from tests.platform.sweep.stage import FIGURES, Stages, statuses


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


@pytest.mark.parametrize("status", Status)
def test_clean_deletes_the_checkpoints_of_trials_that_ended_for_good(
    status: Status, stage: Stages, tmp_path: Path
) -> None:
    sweep = stage()
    code, data = sweep.conductor.recorder.version.values()
    checkpoints = []
    for name in ("ended", "goes on"):
        folder = tmp_path / "trials" / trial_folder(sweep.start(name).config.key, code, data)
        checkpoints.append(folder / "checkpoint")
        checkpoints[-1].mkdir(parents=True)
        (checkpoints[-1] / "moments").write_text("12345")
        # an upload was under way when its process was killed
        checkpoints.append(folder / ".checkpoint.upload-20")
        checkpoints[-1].mkdir()
    if status is not Status.RUNNING:
        sweep.end("ended", status)
    running = sweep.stored()
    # one that was lost goes on, and one that was pruned may be promoted until the sweep's end
    if status in (Status.RUNNING, Status.LOST, Status.PRUNED):
        assert clean(home=tmp_path) == []
    if status is Status.PRUNED:
        open_client(sweep.uri).set_tag(running.run_id, "recallfront.status", "finished")
    goes = status not in (Status.RUNNING, Status.LOST)
    found = clean(home=tmp_path, dry_run=True)
    assert found == [Leftover(checkpoints[0].parent, status, 5)] * goes
    assert all(path.exists() for path in checkpoints)
    assert clean(home=tmp_path) == found
    assert [path.exists() for path in checkpoints] == [not goes, not goes, True, True]
    assert clean(home=tmp_path) == []


def test_clean_leaves_what_a_running_sweep_or_a_process_may_need(stage: Stages, tmp_path: Path) -> None:
    """A pruned trial may be promoted until the sweep's end, and by then another sweep may run it."""
    sweep = stage()
    code, data = sweep.conductor.recorder.version.values()
    place = Workplace(tmp_path, tmp_path, data, code, sweep="another sweep")
    folder = place.folder(sweep.start("a").config)
    (folder / "checkpoint.new").mkdir(parents=True)
    (folder / "checkpoint.new" / "moments").write_text("12345")
    sweep.end("a", Status.PRUNED)
    assert sweep.stored().tags["status"] == "running"
    assert clean(home=tmp_path) == [] and (folder / "checkpoint.new").exists()
    open_client(sweep.uri).set_tag(sweep.stored().run_id, "recallfront.status", "finished")
    with held(folder, place, Event()):
        assert clean(home=tmp_path) == [] and (folder / "checkpoint.new").exists()
    (found,) = clean(home=tmp_path)
    assert found.status is Status.PRUNED and list(folder.iterdir()) == []


@pytest.mark.parametrize("status", Status)
def test_what_is_left_of_a_trial_that_ends(status: Status, stage: Stages, tmp_path: Path) -> None:
    """Its checkpoint if it may go on; others may take its folder if it does not."""
    sweep = stage()
    code, data = sweep.conductor.recorder.version.values()
    place = Workplace(tmp_path, tmp_path, data, code, sweep=sweep.spec.key)
    folder = place.folder(sweep.start("a").config)
    for name in ("checkpoint", "weights"):
        (folder / name).mkdir(parents=True)
    (folder / "lock").write_text(sweep.spec.key)
    (folder / "result.json").touch()
    ends = _Ends(sweep.conductor, place, cast(Room, SimpleNamespace(grows=False)))
    trial = cast(Trial, SimpleNamespace(trial_id="a", error_file=None))
    if status is Status.LOST:
        ends.on_trial_error(1, [trial], trial)
    else:
        sweep.conductor.report("a", Report(step=20, figures=FIGURES, status=status))
        ends.on_trial_complete(1, [trial], trial)
    assert statuses(sweep.stored()) == [status]
    goes_on = status in (Status.RUNNING, Status.LOST)
    kept = {"weights", "result.json"} | ({"checkpoint", "lock"} if goes_on else set())
    may_be_promoted = {"checkpoint"} if status is Status.PRUNED else set()
    assert {path.name for path in folder.iterdir()} == kept | may_be_promoted
    ends.on_experiment_end([trial])
    assert {path.name for path in folder.iterdir()} == kept


def test_at_the_end_checkpoints_of_pruned_trials_go_but_not_another_sweep_s(
    stage: Stages, tmp_path: Path
) -> None:
    """Also those of an earlier run of the sweep, which was killed before its end."""
    sweep = stage()
    code, data = sweep.conductor.recorder.version.values()
    place = Workplace(tmp_path, tmp_path, data, code, sweep=sweep.spec.key)
    folders = [place.folder(sweep.start(name).config) for name in ("ours", "theirs")]
    for folder, holder in zip(folders, (sweep.spec.key, "another sweep"), strict=True):
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "lock").write_text(holder)
    for name in ("ours", "theirs"):
        sweep.end(name, Status.PRUNED)
    room = cast(Room, SimpleNamespace(grows=False))  # a real one asks Ray
    ends = _Ends(sweep.conductor, place, room)
    ends.on_experiment_end([])
    assert [(folder / "checkpoint").exists() for folder in folders] == [False, True]


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


def test_where_nothing_is_left_the_search_is_asked_again_only_after_news(
    stage: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = stage(early_stopping={"first_rung_steps": 10})
    sweep.start("a")
    sweep.start("b")
    asked: list[bool] = []
    promote = Rules.promote

    def counted(rules: Rules, *, thorough: bool = False) -> Sequence[PlannedTrial]:
        asked.append(thorough)
        return promote(rules, thorough=thorough)

    monkeypatch.setattr(Rules, "promote", counted)
    for _ in range(5):
        assert sweep.conductor.next("c") is None
    assert asked == [False, True], "of all that were ended, too"
    report = Report(step=10, figures=FIGURES | {"validation_loss": 1.0})
    assert sweep.conductor.goes_on("a", report)
    for _ in range(5):
        assert sweep.conductor.next("c") is None
    assert len(asked) == 4
    sweep.end("a")
    for _ in range(5):
        assert sweep.conductor.next("c") is None
    assert len(asked) == 6


def test_what_waits_is_counted_when_it_is_told() -> None:
    counted: list[int] = []
    waiting = Waiting(cast(Conductor, SimpleNamespace(waits=lambda told: counted.append(-1))), may_grow=False)

    def count() -> int:
        counted.append(1)
        return 0

    for _ in range(3):
        waiting.look(count)
    assert counted == []
    waiting._due_at = 0.0
    for _ in range(3):
        waiting.look(count)
    assert counted == [1, -1]


def test_the_verdict_of_a_claim_that_is_gone_is_taken_away(stage: Stages, tmp_path: Path) -> None:
    claim = {"sentence": "It recalls.", "measures": {"m": "mean recall"}, "condition": "m > 0", "seeds": 1}
    sweep = stage(claims=[claim | {"id": "old"}, claim | {"id": "kept"}])
    for name in "ab":
        sweep.start(name)
        sweep.end(name)
    Publisher(sweep.conductor, sweep.conductor.recorder, tmp_path / "fronts").judge()
    tags = sweep.stored().tags
    assert tags["claim.old"].startswith("supported: ") and tags["claim.kept"] == tags["claim.old"]
    for ids in (["kept", "new"], []):
        asked = [Claim.model_validate(claim | {"id": own}) for own in ids]
        known = sweep.stored()
        again = Recorder(
            sweep.writer,
            sweep.spec,
            lineage=collect(tmp_path),
            data=(tmp_path / "data" / "mqar", known.trials[0].tags["data_digest"]),
            before=known.tags,
        )
        again.claims([Judgement(own, ClaimVerdict.UNDECIDED) for own in asked])
        told = {name[6:]: value for name, value in sweep.stored().tags.items() if name.startswith("claim.")}
        assert {name for name, value in told.items() if value} == set(ids)
