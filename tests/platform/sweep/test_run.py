"""Whole sweeps on a local Ray: what is recorded, what is run again, and how trials fail."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from recallfront.__main__ import run
from recallfront.platform import SweepResult, front, pick, rerun, run_sweep
from recallfront.platform.front.registry import export_model
from recallfront.platform.keeping.export import export
from recallfront.platform.keeping.load import load_archive
from recallfront.platform.rerun import Verdict
from recallfront.platform.results.status import Status
from recallfront.platform.status import sweeps_table
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.sweeps import load_spec
from recallfront.terminal import show_result
from tests.platform.specs import tiny, tiny_spec
from tests.platform.stores import ready_home
from tests.platform.sweeps import history, stored, workplace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALLFRONT_USER", "ada")
        return run_sweep(tiny_spec(concurrent=1), home=ready_home(tmp_path_factory.mktemp("home")))


def test_a_sweep_records_every_trial_and_is_not_run_twice(swept: SweepResult) -> None:
    spec, first = tiny_spec(), swept
    trials = stored(first)
    assert (first.ran, first.answered, len(trials)) == (3, 0, 3)
    assert {trial.status for trial in trials} == {Status.FINISHED}
    for trial in trials:
        assert [step for step, _ in history(first, trial.run_id, "loss")] == list(range(1, 21))
        assert [step for step, _ in history(first, trial.run_id, "validation_recall")] == [10, 20]
        assert {"recall", "decode_tokens_per_second", "state_bytes", "parameters"} <= trial.metrics.keys()
    assert first.front is not None and first.front.members
    assert all(path.stat().st_size > 100 for path in first.front_files.values())
    client = open_client(first.tracking_uri)
    parent = client.get_run(read_sweep(first.tracking_uri, spec.key).run_id)
    assert parent.info.status == "FINISHED"
    runs = [parent, *(client.get_run(trial.run_id) for trial in trials)]
    assert {run.data.tags["mlflow.user"] for run in runs} == {"ada"}
    assert [step for step, _ in history(first, parent.info.run_id, "hypervolume")][-1] == 3

    again = run_sweep(spec, home=first.home)
    assert (again.ran, again.answered) == (0, 3)
    assert [t.run_id for t in stored(again)] == [t.run_id for t in trials]
    assert again.front is not None and again.front.hypervolume == pytest.approx(first.front.hypervolume)

    changed = spec.model_copy(update={"seeds": (0,), "retries": 0, "concurrent": 1})
    wider = run_sweep(changed, home=first.home)
    assert wider.ran == 0, "the budget is not part of a sweep's identity"


def test_a_claim_can_be_added_to_a_finished_sweep(
    swept: SweepResult, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "id": "less-state",
        "sentence": "A window's state is smaller than attention's.",
        "measures": {
            "window": "highest state_bytes where architecture == window",
            "attention": "mean state_bytes where architecture == attention",
        },
        "condition": "window / attention < 1",
        "seeds": 1,
    }
    again = run_sweep(tiny_spec(claims=[asked]), home=swept.home)
    assert again.ran == 0 and [j.verdict.value for j in again.judgements] == ["supported"]
    show_result(again, Console(width=120))
    assert "less-state" in capsys.readouterr().out
    client = open_client(again.tracking_uri)
    run_id = read_sweep(again.tracking_uri, again.record.sweep_key).run_id
    assert client.get_run(run_id).data.tags["recallfront.claim.less-state"].startswith("supported: 0.")
    assert "claims.json" in [artifact.path for artifact in client.list_artifacts(run_id)]
    assert run(["claims", "tiny", "--home", str(swept.home)]) == 0
    assert "supported" in capsys.readouterr().out


def test_a_sweep_goes_into_another_store_as_one_file(swept: SweepResult, tmp_path: Path) -> None:
    """Front, pick and status are the same there, no trial runs twice, and one is run again from its lineage."""
    file, home = tmp_path / "tiny.zip", ready_home(tmp_path / "home")
    export("tiny", file, weights=True, home=swept.home)
    load_archive(file, home=home)
    there, here = front("tiny", home=home), front("tiny", home=swept.home)
    assert there.hypervolume == here.hypervolume
    assert [(c.label, c.metrics) for c in there.members] == [(c.label, c.metrics) for c in here.members]
    picked = pick("tiny", home=home)
    assert picked.reason == pick("tiny", home=swept.home).reason
    assert (export_model(picked, tmp_path / "model", home=home)["model.safetensors"]).stat().st_size > 1000
    assert [str(c) for c in sweeps_table(home=home).columns[3].cells] == ["3 of 3 finished"]
    again = run_sweep(tiny_spec(concurrent=1), home=home)
    assert (again.ran, again.answered) == (0, 3)
    trial = stored(again)[0]
    assert history(again, trial.run_id, "loss") == history(swept, stored(swept)[0].run_id, "loss")
    assert rerun(trial.run_id, home=home).verdict is Verdict.IDENTICAL


def test_the_report_of_a_sweep_tells_how_to_run_it_again(
    swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", "tiny", "--out", str(tmp_path / "out"), "--home", str(swept.home)]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {f"{name}.{kind}" for name in ("front", "curves") for kind in ("svg", "png")}
    assert pictures | {"report.md", "report.html", "specification.yaml"} <= names
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"| sweep | {swept.record.sweep_key} |" in text and "recallfront run specification.yaml" in text
    assert load_spec(str(tmp_path / "out" / "specification.yaml")).key == swept.record.sweep_key

    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("RECALLFRONT_HOME", str(swept.home))
    commands = [shlex.split(line) for line in re.findall(r"^    (recallfront .*)$", text, flags=re.MULTILINE)]
    assert [command[1] for command in commands] == ["run", "front", "pick", "rerun", "report"]
    for command in commands:
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "out" / "report" / "report.md").exists()


def test_every_command_that_a_run_prints_works(
    swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    served: list[Path] = []

    def serve(home: Path, *_: object, **__: object) -> int:
        served.append(home)
        return 0

    monkeypatch.setattr("recallfront.dashboards.serving.serve", serve)
    show_result(swept, Console(quiet=True))
    told = capsys.readouterr().out.split("next:\n")[1]
    commands = [shlex.split(line.replace("python -m ", "")) for line in told.splitlines()]
    assert [command[1] for command in commands] == ["front", "pick", "rerun", "report", "ui"]
    assert commands[1][2] == swept.record.sweep_key[:8], "a name may be that of two sweeps"
    for command in commands:
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
    assert served == [swept.home] and (tmp_path / "report" / "report.md").exists()


def test_each_failure_is_recorded_with_its_status_and_the_others_finish(tmp_path: Path) -> None:
    spec = tiny_spec(
        space=[
            {"architecture": "attention", "num_heads": [1, 3]},  # 3 heads do not divide the width
            {"architecture": "window", "window_size": 4, "training.learning_rate": [0.003, 1e6]},
            {"architecture": "window", "window_size": 5, "training.batch_size": 2**21},  # 4 GB of logits
            {"architecture": "window", "window_size": 6, "training.steps": 1_000_000},
            {"architecture": "hawk"},  # a file is where its weights are to be
        ],
        resources={"memory_gb": 2.0, "time_limit_seconds": 15.0},
        training={"gradient_clipping": 0.0},
        concurrent=1,
    )
    folder = workplace(spec, tmp_path).folder(spec.trial(spec.blocks[4], {}, 0))
    folder.mkdir(parents=True)
    (folder / "model").write_text("no folder")

    result = run_sweep(spec, home=ready_home(tmp_path))
    by_status = {trial.status: trial for trial in stored(result)}
    counts = Counter(trial.status for trial in stored(result))
    assert counts == {
        Status.FINISHED: 2,
        Status.INVALID: 1,
        Status.DIVERGED: 1,
        Status.OUT_OF_MEMORY: 1,
        Status.TIMEOUT: 1,
        Status.ERROR: 1,
    }
    failures = {status: trial.failure or "" for status, trial in by_status.items()}
    assert "num_heads" in failures[Status.INVALID] and "3" in failures[Status.INVALID]
    assert "step" in failures[Status.DIVERGED] and "loss is" in failures[Status.DIVERGED]
    assert by_status[Status.OUT_OF_MEMORY].metrics["peak_memory_bytes"] > 1e8
    assert "time limit of 15 s" in failures[Status.TIMEOUT]
    client = open_client(result.tracking_uri)
    artifacts = [a.path for a in client.list_artifacts(by_status[Status.ERROR].run_id)]
    assert "traceback.txt" in artifacts
    assert client.get_run(by_status[Status.ERROR].run_id).info.status == "FAILED"
    assert result.front is not None and len(result.front.candidates) == 2


def test_a_trial_that_takes_its_node_s_memory_is_not_tried_again(tmp_path: Path) -> None:
    """Ray's own monitor ends it, as it would on a node that is full: here it takes any node for full."""
    spec = tiny(space=[{"architecture": "window", "window_size": 4}])
    file = ready_home(tmp_path) / "full.yaml"
    file.write_text(yaml.safe_dump(spec))
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    command = [sys.executable, "-m", "recallfront", "run", str(file), "--home", str(tmp_path)]
    told = subprocess.run(command, env=os.environ | full, capture_output=True, text=True, timeout=240)
    assert told.returncode == 1 and "0 finished, 1 failed" in told.stdout
    assert "out_of_memory: window · seed 0: its node ran out of memory (" in told.stdout
    (trial,) = read_sweep(f"sqlite:///{tmp_path}/mlflow.db", "tiny").trials
    assert trial.status is Status.OUT_OF_MEMORY and trial.status.is_final
    assert trial.metrics["peak_memory_bytes"] > 0
    status = sweeps_table(home=tmp_path)
    assert str(next(iter(status.columns[3].cells))) == "0 of 1 finished, 1 failed"


def test_pruned_trials_are_told_apart_and_stay_off_the_front(tmp_path: Path) -> None:
    spec = tiny_spec(
        # two that learn nothing show how such curves end, and two that learn what the others then have to reach
        space=[{"architecture": "attention", "training.learning_rate": [1e-7, 2e-7, 0.02, 0.03, 3e-7, 4e-7]}],
        training={"steps": 90, "evaluate_every": 10},
        early_stopping={"first_rung_steps": 10, "reduction": 3},
        # none that noise decides: with it every window might be on the front
        objectives=[{"metric": "recall"}, {"metric": "state_bytes", "direction": "min", "reference": 1e6}],
        concurrent=1,
    )
    result = run_sweep(spec, home=ready_home(tmp_path))
    counts = Counter(trial.status for trial in stored(result))
    assert set(counts) == {Status.FINISHED, Status.PRUNED} and counts[Status.PRUNED] >= 2
    assert result.front is not None and len(result.front.candidates) == counts[Status.FINISHED]
    for trial in stored(result):
        if trial.status is Status.PRUNED:
            assert history(result, trial.run_id, "loss")[-1][0] < 90 and "recall" not in trial.metrics
    again = run_sweep(spec, home=tmp_path)
    assert (again.ran, again.answered) == (0, 6)
    pruned = next(trial for trial in stored(result) if trial.status is Status.PRUNED)
    found = rerun(pruned.run_id, home=tmp_path)
    assert found.verdict is Verdict.IDENTICAL and found.reason.endswith("both runs ended as pruned")


def test_a_record_is_of_one_version_of_the_code(swept: SweepResult) -> None:
    record = read_sweep(swept.tracking_uri, swept.record.sweep_key)
    newer = dataclasses.replace(
        record.trials[0], tags=record.trials[0].tags | {"code_version": "other"}, start_time=time.time()
    )
    mixed = dataclasses.replace(record, trials=(*record.trials, newer))
    assert mixed.current().trials == (newer,)
