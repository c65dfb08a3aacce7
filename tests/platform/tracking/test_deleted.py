"""What becomes of runs and experiments that were deleted in MLflow while or before a sweep writes to them."""

import pytest

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.experiments import find_experiment
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.tracking.conftest import NOW, WAIT, history, opened

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own


def test_a_deleted_run_is_made_anew(uri: str, writer: TrackingWriter) -> None:
    first = opened(writer, "deleted")
    writer.metrics("deleted", [("loss", 1.0, 0, NOW)])
    assert writer.flush(WAIT)
    open_client(uri).delete_run(first)
    writer.metrics("deleted", [("loss", 1.0, 1, NOW)])
    assert writer.flush(WAIT) and writer.rejected() == 1
    writer.open_run("deleted", experiment="study", name="deleted")
    writer.metrics("deleted", [("loss", 2.0, 0, NOW)])
    assert writer.flush(WAIT)
    second = writer.run_id("deleted")
    assert second is not None and second != first
    assert history(uri, second, "loss") == [(0, 2.0)]


@pytest.mark.parametrize("name", ["binned", "b" * 500], ids=["short", "longest"])
def test_what_was_deleted_with_its_experiment_stays_deleted(
    uri: str, writer: TrackingWriter, name: str
) -> None:
    """The name of the experiment is that of a study, which is run again."""
    writer.open_run(f"{name}/1", experiment=name, name="1")
    first = writer.run_id(f"{name}/1", WAIT)
    assert first is not None
    client = open_client(uri)
    for number in (2, 3):
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        client.delete_experiment(experiment.experiment_id)
        key = f"{name}/{number}"
        writer.open_run(key, experiment=name, name=key)
        writer.metrics(key, [("loss", 1.0, 0, NOW)])
        assert writer.flush(WAIT) and writer.rejected() == 0
        run_id = writer.run_id(key)
        assert run_id and client.get_run(run_id).info.experiment_id != experiment.experiment_id
        assert client.get_experiment(experiment.experiment_id).lifecycle_stage == "deleted"
        assert client.get_experiment(client.get_run(run_id).info.experiment_id).name == name
    assert client.get_run(first).info.lifecycle_stage == "deleted"


def test_what_an_interruption_left_of_a_deleted_experiment_is_deleted(uri: str) -> None:
    """MLflow renames no deleted experiment: for a moment it is there again, and its process may be killed then."""
    client = open_client(uri)
    left = client.create_experiment("interrupted")
    client.rename_experiment(left, f"interrupted (deleted {left})")
    another = client.create_experiment("interrupted (deleted 77)")
    assert find_experiment(client, "interrupted") is None
    assert client.get_experiment(left).lifecycle_stage == "deleted"
    assert client.get_experiment(another).lifecycle_stage == "active", "somebody called it so"


def test_a_child_of_a_deleted_experiment_brings_it_back(uri: str, writer: TrackingWriter) -> None:
    run_id = opened(writer, "gone/sweep")
    client = open_client(uri)
    for key in ("gone/1", "gone/2"):
        writer.open_run(key, experiment="study", name=key, parent_key="gone/sweep", is_new=True)
        assert writer.flush(30.0)
        child = writer.run_id(key)
        assert child is not None
        experiment = client.get_run(child).info.experiment_id
        assert client.get_experiment(experiment).lifecycle_stage == "active"
        assert experiment == client.get_run(run_id).info.experiment_id
        client.delete_experiment(experiment)
    client.restore_experiment(experiment)
