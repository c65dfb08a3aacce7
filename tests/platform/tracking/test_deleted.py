"""What becomes of runs and experiments that were deleted in MLflow while or before a sweep writes to them."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.experiments import experiment_of, half_deleted
from recallfront.platform.tracking.ledger import list_sweeps, read_deleted
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
    made = experiment_of(client, uri, "interrupted")
    assert made != left and client.get_experiment(made).name == "interrupted"
    assert client.get_experiment(left).lifecycle_stage == "deleted"
    assert client.get_experiment(another).lifecycle_stage == "active", "somebody called it so"


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["killed", "k" * 500], ids=["short", "longest"])
@pytest.mark.parametrize("last", range(6))
def test_a_deletion_that_is_killed_at_any_call_stays_one(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch, name: str, last: int
) -> None:
    """No command shows the sweep again, wherever the process is killed, and the next one makes an end of it."""
    name = f"{last}{name}"[:500]
    key = f"{name}/sweep"[-200:]
    tags = {"recallfront.kind": "sweep", "recallfront.sweep_key": f"{last}" * 64}
    writer.open_run(key, experiment=name, name="sweep", tags=tags)
    run_id = writer.run_id(key, WAIT)
    assert run_id is not None and writer.flush(WAIT)
    client = open_client(uri)
    old = client.get_run(run_id).info.experiment_id
    assert run_id in {sweep.run_id for sweep in list_sweeps(uri)}
    client.delete_experiment(old)
    calls = 0

    def count(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > last:
                raise Killed
            return real(*args)

        return counted

    for change in ("create_experiment", "restore_experiment", "rename_experiment", "delete_experiment"):
        monkeypatch.setattr(client, change, count(getattr(client, change)))
    with pytest.raises(Killed) if last < 5 else nullcontext():
        experiment_of(client, uri, name)
    assert calls == min(last + 1, 5)
    assert run_id not in {sweep.run_id for sweep in list_sweeps(uri)}
    gone = read_deleted(uri, f"{last}" * 64)
    assert gone is not None and gone.run_id == run_id, "its files are not found in the home, either"
    client = open_client(uri)
    made = experiment_of(client, uri, name)
    assert made != old and client.get_experiment(made).name == name
    assert client.get_experiment(made).lifecycle_stage == "active"
    assert client.get_experiment(old).lifecycle_stage == "deleted"
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    names = {found.experiment_id: found.name for found in client.search_experiments()}
    assert names.pop(made) == name and not [own for own in names.values() if own.startswith(name[:400])]
    assert not half_deleted(names) and experiment_of(client, uri, name) == made


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
