"""Suites on a local Ray: each task is a sweep of its own, and the table of their scores stands in MLflow."""

import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from recallfront.platform.front.pictures.report import write_report
from recallfront.platform.front.pictures.suite_report import is_suite, write_suite_report
from recallfront.platform.rerun import rerun
from recallfront.platform.sweep.run import SweepResult
from recallfront.platform.sweep.suite import read_scores, run_suite
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.store import prepare_store
from recallfront.sweeps.load import load_study
from recallfront.sweeps.suite import Suite
from recallfront.terminal import show_result
from tests.platform.specs import SEGMENT, TINY
from tests.platform.stores import ready_home

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


CLAIM = {
    "id": "recalls-something",
    "sentence": "A window recalls.",
    "measures": {"recall": "highest recall.test_recall"},
    "condition": "recall >= 0",
    "seeds": 1,
}

OF_ONE_SWEEP = CLAIM | {
    "id": "knows-its-own-recall",
    "sentence": "The first sweep recalls.",
    "measures": {"recall": "highest test_recall"},
}


def test_a_suite_runs_its_sweeps_and_logs_their_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = TINY["task"] | {"train": [SEGMENT | {"examples": 32}]}
    settings = [
        {"task": TINY["task"], "training": {"steps": 10}, "claims": [OF_ONE_SWEEP]},
        {"task": short, "training": {"steps": 5}},
    ]
    raw = {key: value for key, value in TINY.items() if key != "task"}
    raw |= {
        "name": "pair",
        "tasks": {"recall": settings},
        "space": [{"architecture": "window", "window_size": 4}],
        "claims": [CLAIM],
    }
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(raw))
    suite = load_study(str(file))
    assert isinstance(suite, Suite) and is_suite(str(file)) and not is_suite("quickstart")
    assert suite.number_of_claims == 2
    home = ready_home(tmp_path / "home")
    ran: list[SweepResult] = []
    found = run_suite(suite, home=home, ended=ran.append)
    counted = [(result.record.name, result.ran) for result in ran]
    assert counted == [("pair-recall-1", 1), ("pair-recall-2", 1)]
    capsys.readouterr()
    for result in ran:
        show_result(result, Console(width=120), short=True)
    told = capsys.readouterr().out
    assert told.count("knows-its-own-recall") == 1 and "recalls-something" not in told
    assert found.missing == 0 and found.table["window"]["recall"].settings == 2
    client = open_client(prepare_store(None, home))
    experiment = client.get_experiment_by_name("pair")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.metrics["score/mean/window"] == pytest.approx(found.means["window"])
    table = json.loads(Path(client.download_artifacts(logged.info.run_id, "scores.json")).read_text())
    assert table == {
        "columns": ["architecture", "recall", "mean"],
        "data": [["window", *[found.means["window"]] * 2]],
    }
    assert logged.data.tags["recallfront.claim.recalls-something"].startswith("supported: ")
    claims = json.loads(Path(client.download_artifacts(logged.info.run_id, "claims.json")).read_text())
    assert claims["data"][0][2] == pytest.approx(found.means["window"])
    paths = write_suite_report(str(file), tmp_path / "report", home=home)
    report = paths["markdown"].read_text()
    assert (
        "A window recalls." in report
        and "pair-recall-2" in report
        and (tmp_path / "report/claims.svg").exists()
    )
    own = report.partition("## Claims of pair-recall-1")[2].partition("\n## ")[0]
    assert "knows-its-own-recall: The first sweep recalls." in own and "(claims-1.svg)" in own
    assert "knows-its-own-recall" not in report.replace(own, "") and "Claims of pair-recall-2" not in report
    (command,) = re.findall(r"recallfront rerun ([0-9a-f]{8})\n", report)
    assert "Reruns" not in report
    verdict = rerun(command, home=home).verdict.value
    for written in (
        write_suite_report(str(file), tmp_path / "report", home=home),
        write_report("pair-recall-1", tmp_path / "one", home=home),
    ):
        (row,) = re.findall(
            rf"^\| (.+?) \| ({command}[0-9a-f]+) \| (.+?) \|", written["markdown"].read_text(), re.M
        )
        assert row[2] == verdict == "identical" and "window" in row[0]
        assert "<h2>Reruns</h2>" in written["html"].read_text()
    other = write_report("pair-recall-2", tmp_path / "other", home=home)
    assert "Reruns" not in other["markdown"].read_text(), "none of its trials has been run again"
    assert load_study(str(paths["specification"])) == suite
    again = run_suite(suite, home=home, ended=ran.append)
    counted = [(result.record.name, result.ran) for result in ran[2:]]
    assert counted == [("pair-recall-1", 0), ("pair-recall-2", 0)] and again == found
    assert read_scores(str(file), home=home) == found
