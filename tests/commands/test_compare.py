"""`recallfront compare`: what it prints, and how it ends."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.results.records import SweepRecord, TrialRecord
from tests.commands.conftest import Refused
from tests.dashboards.served import write
from tests.platform.stores import ready_store

# SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
RATE = "decode_tokens_per_second"


def slower(trial: TrialRecord) -> TrialRecord:
    return replace(trial, metrics=trial.metrics | {RATE: 0.95 * trial.metrics[RATE]})


@pytest.fixture
def home_of_two(home: Path, make_record: Callable[..., SweepRecord]) -> str:
    """A home with two sweeps, of which the second is slower by 5 %."""
    uri, first = ready_store(home), make_record(5)
    trials = tuple(map(slower, first.trials))
    second = replace(first, name="slower", sweep_key="cafe".ljust(64, "0"), trials=trials)
    for record in (first, second):
        write(record, uri, "finished")
    return str(home)


def test_a_second_sweep_that_is_worse_ends_with_code_1(
    home_of_two: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(before: str, after: str, *more: str) -> tuple[int, str, str]:
        code = run(["compare", before, after, *more, "--home", home_of_two])
        return code, *capsys.readouterr()

    code, told, error = compare("quickstart", "slower", "--fail-if-worse", "0.01")
    assert code == 1 and error.startswith("worse by more than 1 %: hypervolume ") and "(-5.0 %; " in error
    assert "hawk" in told and "(-5.0 %; " in told, "the table and the outcome all the same"
    for asked in (
        ("quickstart", "slower", "--fail-if-worse", "0.06"),
        ("slower", "quickstart", "--fail-if-worse", "0.01"),
        ("quickstart", "slower"),
    ):
        code, told, error = compare(*asked)
        assert (code, error) == (0, "") and "hypervolume" in told, asked


def test_a_table_for_programs_is_all_of_stdout(
    home_of_two: str, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    asked = ["compare", "quickstart", "slower", "--fail-if-worse", "0.01", "--home", home_of_two]
    assert run([*asked, "--csv"]) == 1
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 5 and {line["place"] for line in lines} <= {"both", "neither"}
    for line in lines:
        assert float(line[f"{RATE}_b"]) == pytest.approx(0.95 * float(line[f"{RATE}_a"]))
    assert run([*asked, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["after"]["sweep"] == "slower" and document["difference"] < 0
    assert "--csv and --json: give only one of them" in refused(*asked, "--csv", "--json")
