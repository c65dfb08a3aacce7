"""What the pages show, read off records."""

import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from recallfront.dashboards.rendering import render
from recallfront.dashboards.sweep_pages import claims_of
from recallfront.dashboards.timeline import device_seconds
from recallfront.dashboards.views import view_of
from recallfront.platform.errors import UsageError
from recallfront.platform.front.front import build_front
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from recallfront.sweeps.load import load_study
from recallfront.sweeps.spec import SweepSpec

MakeRecord = Callable[..., SweepRecord]
OTHERS = (Status.DIVERGED, Status.ERROR, Status.PRUNED, Status.RUNNING, Status.RUNNING)


def test_counts_and_state(make_record: MakeRecord) -> None:
    view = view_of(make_record(17, OTHERS, tags={"status": "running"}), "7")
    counts = {"finished": 17, "pruned": 1, "running": 2, "invalid": 0, "failed": 2, "unfinished": 0}
    assert (view.counts, view.planned, view.state, view.is_running) == (counts, 22, "running", True)
    of_200 = view_of(make_record(17, OTHERS, tags={"status": "running", "trials_planned": "200"}), "7")
    assert of_200.told == "17 of 200 finished, 1 pruned, 2 running, 2 failed"
    assert view.best is not None and view.best.architecture == "attention"
    assert view.device_hours == pytest.approx(20 * 15 / 3600)  # pruned and failed trials cost too
    assert view.link("abc") == "/#/experiments/7/runs/abc?workflowType=machine_learning"
    states = {
        tag: view_of(make_record(tags={"status": tag}), "7").state
        for tag in ("finished", "error", "interrupted", "?")
    }
    assert states == {
        "finished": "finished",
        "error": "failed",
        "interrupted": "interrupted",
        "?": "unknown",
    }


def test_the_page_has_the_verdicts_on_the_sweep_s_claims(make_record: MakeRecord) -> None:
    asked = {
        "id": "a",
        "sentence": "It learns.",
        "measures": {"most": "best recall"},
        "condition": "most > 0.5",
    }
    record = make_record(tags={"status": "finished"})
    view = view_of(replace(record, spec=record.spec | {"claims": [asked | {"seeds": 2}]}), "7")
    assert [(judged.verdict.value, judged.asked) for judged in view.judgements] == [("supported", "> 0.5")]
    assert 'tabindex="0" role="region" aria-label="Claims"' in render("claims.html", "", **claims_of(view))


def test_a_claim_that_cannot_be_read_is_said_in_its_place(record: SweepRecord) -> None:
    view = view_of(replace(record, spec=record.spec | {"claims": [{"id": "a<b>"}]}), "7")
    html = render("claims.html", "", **claims_of(view))
    assert "a claim in the store cannot be read" in html and "<table" not in html and "<b>" not in html
    assert render("claims.html", "", **claims_of(view_of(record, "7"))).strip() == ""


def test_what_a_driver_left_is_neither_running_nor_failed(make_record: MakeRecord) -> None:
    left = (Status.DIVERGED, Status.LOST, Status.RUNNING)
    killed = view_of(make_record(17, left, tags={"status": "running"}), "7", driverless=True)
    assert (killed.state, killed.is_running, killed.counts["running"]) == ("killed", False, 0)
    assert (killed.counts["failed"], killed.counts["unfinished"]) == (1, 2)
    first = killed.trials[0]
    assert (first.status, first.seconds) == ("unfinished", None), "nobody works on it"
    assert killed.seconds == view_of(make_record(17, left[:2]), "7").seconds, "its clock stands still"
    finished = view_of(make_record(17, left, tags={"status": "finished"}), "7", driverless=True)
    assert finished.state == "finished"
    driven = view_of(make_record(17, left, tags={"status": "running"}), "7")
    assert driven.state == "running"
    assert {name: driven.counts[name] for name in ("running", "failed", "unfinished")} == dict.fromkeys(
        ("running", "failed", "unfinished"), 1
    )


def test_a_rest_between_two_runs_of_a_trial_is_no_time_of_its_own(make_record: MakeRecord) -> None:
    record = make_record(2)
    rested = replace(
        record.trials[0], end_time=record.trials[0].start_time + 9000.0, tags={"run_seconds": "21.0"}
    )
    view = view_of(replace(record, trials=(rested, record.trials[1])), "7")
    assert view.device_hours == pytest.approx((21.0 + 15.0) / 3600)
    assert device_seconds(view) == {"finished": pytest.approx(36.0)}
    assert {trial.seconds for trial in view.trials} == {21.0, 15.0}


def test_results_of_earlier_code_are_counted_but_not_mixed_in(make_record: MakeRecord) -> None:
    record = make_record(24)
    old = [replace(trial, tags={"code_version": "old"}) for trial in record.trials[:10]]
    view = view_of(replace(record, trials=(*old, *record.trials[10:])), "7")
    assert (view.older, view.counts["finished"], len(view.trials)) == (10, 14, 14)


def test_what_a_sweep_was_asked_to_do_is_told(record: SweepRecord) -> None:
    spec = record.spec | {
        "description": "why <b>this</b> was run",
        "task": {"name": "mqar", "train": [{"input_seq_len": 64, "num_kv_pairs": 8}], "extra": None},
        "space": [{"architecture": "based", "feature_dim": [4, 8]}, {"architecture": "hawk"}],
        "training": {"steps": 300, "learning_rate": 0.003},
        "budget": {"hours": 2.0, "trials": None, "gain_trials": 20},
    }
    tags = record.tags | {"budget_left": "budget left: 1h 5m"}
    view = view_of(replace(record, spec=spec, tags=tags), "7", owner="ada")
    assert view.budget_left == "budget left: 1h 5m"
    assert view.description == "why <b>this</b> was run"
    assert dict(view.settings) == {
        "ran by": "ada",
        "architectures": "based, hawk",
        "task": "name mqar, train (input_seq_len 64, num_kv_pairs 8)",
        "training": "steps 300, learning_rate 0.003",
        "seeds": "0, 1",
        "budget": "hours 2, gain_trials 20",
    }


def test_only_as_many_trials_are_listed_as_a_person_reads(record: SweepRecord) -> None:
    many = tuple(replace(trial, start_time=float(n)) for n in range(10) for trial in record.trials)
    view = view_of(replace(record, trials=many), "7")
    assert len(view.trials) == 200 and view.unlisted == 40


def test_running_trials_come_first_and_failures_are_told(make_record: MakeRecord) -> None:
    trials = view_of(make_record(17, OTHERS, tags={"status": "running"}), "7").trials
    assert [trial.status for trial in trials[:5]] == ["running", "running", "pruned", "error", "diverged"]
    assert trials[4].failure == "loss is nan at step 120" and trials[4].is_failure
    assert trials[0].figures == ("–", "–", "3,700 ±74", "73.0 KiB")
    assert trials[0].label == "based · window_size 8 · feature_dim 8" and trials[0].seed == 1


def test_the_commands_can_be_copied(record: SweepRecord) -> None:
    commands = [shlex.split(command) for _, command in view_of(record, "7").commands("http://host:1")]
    assert all(c[0] == "recallfront" and c[-2:] == ["--tracking-uri", "http://host:1"] for c in commands)
    front, knee, where, rerun, report = commands
    assert front[1:3] == ["front", "5eed0000"]
    assert knee[1:4] == ["pick", "5eed0000", "--knee"]
    assert where[3:7] == ["--where", "recall >= 0.9", "--max", "decode_tokens_per_second"]
    best = build_front(record).knee
    assert best is not None and best.run_ids[0].startswith(rerun[2])
    assert report[1:5] == ["report", "5eed0000", "--out", "report"]


def test_the_commands_name_the_plug_ins_that_the_trials_ran_with(record: SweepRecord) -> None:
    """Read of one trial, and only for a page that shows commands; again if it could not be read."""
    read, is_away = list[str](), True

    def plugins_of(run_id: str) -> list[str]:
        if is_away:
            raise UsageError("the store is away")
        read.append(run_id)
        return ["my mixer.py"]

    view = view_of(record, "7", plugins_of=plugins_of)
    assert view.trials and not any("--plugin" in command for _, command in view.commands("uri"))
    is_away = False
    told = {command.split()[1]: command for _, command in (*view.commands("uri"), *view.commands("uri"))}
    assert {name for name, command in told.items() if " --plugin 'my mixer.py' " in command} == {
        "rerun",
        "report",
    }
    assert read == [record.trials[0].run_id]


def test_a_sweep_is_continued_by_its_study_or_by_its_file(record: SweepRecord) -> None:
    """Some of the studies that come with the package are suites, whose names a sweep may have as well."""
    for name, study in ((name, load_study(name)) for name in ("quickstart", "mad")):
        named = replace(record, name=name)
        assert view_of(named, "7").specification_file == f"{name}.yaml"
        if isinstance(study, SweepSpec):
            assert view_of(replace(named, sweep_key=study.key), "7").specification_file == name


def test_a_new_sweep_has_little_to_show(make_record: MakeRecord) -> None:
    view = view_of(make_record(0, (Status.RUNNING,), tags={"status": "running"}), "7")
    assert (view.hypervolume, view.best) == ("–", None)
    assert len(view.commands("uri")) == 1
    assert view_of(make_record(0), "7").seconds == 0
    with pytest.raises(UsageError, match="no specification"):
        view_of(replace(make_record(0), spec={}), "7")
