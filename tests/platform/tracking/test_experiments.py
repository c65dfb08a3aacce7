"""What MLflow's pages open an experiment on."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ExperimentTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from recallfront.platform.tracking.artifacts import GuardedClient
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.experiments import KIND, KIND_TAG, experiment_of
from recallfront.platform.tracking.writer import TrackingWriter
from tests.platform.tracking.conftest import WAIT

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own


def kind_of(uri: str, experiment: str) -> str | None:
    tags: dict[str, str] = open_client(uri).get_experiment(experiment).tags
    return tags.get(KIND_TAG)


def write(uri: str, writer: TrackingWriter, study: str, *trials: str) -> str:
    """A sweep's run with those of some trials -> its experiment."""
    key = f"{study}/sweep"
    writer.open_run(key, experiment=study, name="sweep")
    for trial in trials:
        writer.open_run(f"{study}/{trial}", experiment=study, name=trial, parent_key=key)
    assert writer.flush(WAIT) and writer.rejected() == 0
    run_id = writer.run_id(key)
    assert run_id is not None
    return str(open_client(uri).get_run(run_id).info.experiment_id)


def test_a_new_experiment_opens_on_its_runs(uri: str, writer: TrackingWriter) -> None:
    assert KIND_TAG == "mlflow.experimentKind" and KIND == "custom_model_development"
    made = write(uri, writer, "new kind")
    assert kind_of(uri, made) == KIND
    client = open_client(uri)
    client.delete_experiment(made)
    successor = experiment_of(client, uri, "new kind")
    assert successor != made and kind_of(uri, successor) == KIND


def test_an_older_experiment_gets_the_tag_once(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    real: Any = SqlAlchemyStore.set_experiment_tag

    def told(store: SqlAlchemyStore, experiment_id: str, tag: ExperimentTag) -> Any:
        asked.append(experiment_id)
        return real(store, experiment_id, tag)

    monkeypatch.setattr(SqlAlchemyStore, "set_experiment_tag", told)
    older = open_client(uri).create_experiment("older kind")
    assert write(uri, writer, "older kind", "a", "b") == older
    assert kind_of(uri, older) == KIND and asked == [older], "once, and not for each trial"
    writer.open_run("older kind/again", experiment="older kind", name="again")
    assert writer.flush(WAIT) and asked == [older]


def test_the_experiment_of_a_sweep_that_continues_gets_the_tag(uri: str, tmp_path: Path) -> None:
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        older = write(uri, writer, "continued kind")
    open_client(uri).delete_experiment_tag(older, KIND_TAG)
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        assert write(uri, writer, "continued kind") == older
    assert kind_of(uri, older) == KIND


def test_what_somebody_chose_in_mlflow_stays(uri: str) -> None:
    client = open_client(uri)
    chosen = client.create_experiment("chosen kind", tags={KIND_TAG: "genai_development"})
    assert experiment_of(client, uri, "chosen kind") == chosen
    assert kind_of(uri, chosen) == "genai_development"


def test_an_experiment_that_takes_no_tag_is_written_to_all_the_same(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may let its users write runs alone, and another process may delete the experiment just then."""
    older = open_client(uri).create_experiment("closed kind")
    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "set_experiment_tag", refuse)
        assert write(uri, writer, "closed kind", "a") == older
    assert kind_of(uri, older) is None


def test_a_server_that_refuses_tags_of_experiments_gets_a_new_study(
    uri: str, writer: TrackingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Any = SqlAlchemyStore.create_experiment

    def bare(store: SqlAlchemyStore, **wanted: Any) -> Any:
        if wanted.get("tags"):
            refuse()
        return make(store, **wanted)

    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "create_experiment", bare)
        patch.setattr(SqlAlchemyStore, "set_experiment_tag", refuse)
        made = write(uri, writer, "bare kind", "a")
    assert kind_of(uri, made) is None
    client = open_client(uri)
    client.delete_experiment(made)
    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "create_experiment", bare)
        successor = experiment_of(client, uri, "bare kind")
    assert successor != made and kind_of(uri, successor) == KIND


def test_a_sweep_continues_in_an_experiment_that_cannot_be_read_just_then(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        made = write(uri, writer, "hidden kind")
    with closing(TrackingWriter(uri, tmp_path / "spool.db")) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(GuardedClient, "get_experiment", refuse)
            writer.open_run("hidden kind/sweep", experiment="hidden kind", name="sweep")
            assert writer.flush(WAIT) and writer.rejected() == 0
        assert write(uri, writer, "hidden kind") == made


def refuse(*_: Any) -> None:
    raise MlflowException("Permission denied")
