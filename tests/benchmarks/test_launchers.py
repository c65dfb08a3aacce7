"""The same sweep by recallfront, by plain Ray Tune and, where a checkout of it is at hand, by zoology's launcher."""

import os
from pathlib import Path

import pytest

from recallfront.benchmarks.platform.launchers import Launched, launchers
from recallfront.platform.errors import UsageError
from recallfront.platform.status import sweeps_table
from recallfront.platform.tracking.client import open_client

CHECKOUT = os.environ.get("RECALLFRONT_ZOOLOGY", "")


def test_a_ratio_is_of_rounds() -> None:
    found = Launched({"recallfront": [2.0, 4.0, 3.0], "another": [4.0, 4.0, 9.0]})
    assert found.ratio("another") == 2.0


def test_a_folder_without_zoology_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a checkout of HazyResearch/zoology"):
        launchers(tmp_path, tmp_path)


@pytest.mark.slow
def test_all_train_the_eight_configurations(tmp_path: Path) -> None:
    found = launchers(tmp_path, Path(CHECKOUT) if CHECKOUT else None, steps=4, rounds=1)
    assert found.seconds.keys() >= {"recallfront", "plain Ray Tune"}
    assert all(seconds > 0 for (seconds,) in found.seconds.values())
    place = tmp_path / "round-0"
    assert [str(cell) for cell in sweeps_table(home=place / "home").columns[3].cells] == ["8 of 8 finished"]
    client = open_client(f"sqlite:///{place / 'tune' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "launchers"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 8 and all(0 <= run.data.metrics["recall"] <= 1 for run in runs)
