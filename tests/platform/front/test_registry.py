"""Writing out and registering what was picked, from a real MLflow store."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities.model_registry import ModelVersion

from recallfront.models import build, parse_config, save
from recallfront.models.decoding.generation import generate
from recallfront.platform.errors import UsageError
from recallfront.platform.front.pick import Picked, pick
from recallfront.platform.front.pyfunc import PARAMETERS
from recallfront.platform.front.registry import export_model, picks_of, register
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.places import artifact_location
from recallfront.platform.tracking.runs import MODEL_DIGEST, MODEL_FILES, model_digest
from tests.platform.front.picking import SPEC, trial
from tests.platform.stores import ready_store

# SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return ready_store(tmp_path / "home")


@pytest.fixture
def stored(store: str, tmp_path: Path) -> SweepRecord:
    """A sweep of two configurations, one with two seeds, whose runs hold weights."""
    client = open_client(store)
    experiment = client.create_experiment("study", artifact_location(store, "study"))
    parent = client.create_run(experiment).info.run_id
    trials = []
    rows = [("based", 0.7, 900, 0), ("based", 0.9, 900, 1), ("hawk", 0.5, 500, 0)]
    for architecture, recall, speed, seed in rows:
        run = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
        folder = tmp_path / run
        folder.mkdir()
        (folder / "recallfront.json").write_text(f'{{"architecture": "{architecture}"}}')
        (folder / "model.safetensors").write_bytes(f"weights of {architecture} {seed}".encode())
        client.log_artifacts(run, str(folder), "model")
        trials.append(trial(run, architecture, recall, speed, 64, seed=seed))
    return SweepRecord(parent, "abc", "study", SPEC, tuple(trials))


def test_export_writes_the_best_seed(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    picked = pick(stored)
    paths = export_model(picked, tmp_path / "out" / "model", tracking_uri=store)
    assert paths["recallfront.json"].read_text() == '{"architecture": "based"}'
    assert paths["model.safetensors"].read_bytes() == b"weights of based 1"
    assert sorted(p.name for p in (tmp_path / "out" / "model").iterdir()) == sorted(paths)
    # again, found by its home
    assert export_model(picked, tmp_path / "out" / "model", home=tmp_path / "home") == paths


def test_export_needs_a_folder(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="/file': must be a folder$"):
        export_model(pick(stored), tmp_path / "file", tracking_uri=store)


def test_export_explains_what_is_missing(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    picked = pick(stored)
    gone = open_client(store).create_run("1").info.run_id
    bare = replace(picked, candidate=replace(picked.candidate, run_ids=(gone,)))
    with pytest.raises(UsageError, match=f"the model of run {gone} cannot be written"):
        export_model(bare, tmp_path / "out", tracking_uri=store)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        export_model(picked, tmp_path / "file", tracking_uri=store)


KEY, LARGE = "cd" * 32, b"large"


def too_large(home: Path) -> Path:
    """The folder of a home in which a trial left weights that were too large to upload."""
    folder = home / "trials" / f"{KEY[:16]}-code-data" / "model"
    folder.mkdir(parents=True)
    (folder / "recallfront.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(LARGE)
    return folder


def of_run(stored: SweepRecord, store: str, **tags: str) -> tuple[Picked, str]:
    """A pick whose run has no artifacts, but these tags."""
    own = {f"recallfront.{name}": value for name, value in tags.items()}
    run = str(open_client(store).create_run("1", tags=own).info.run_id)
    picked = pick(stored)
    return replace(picked, candidate=replace(picked.candidate, run_ids=(run,))), run


def test_weights_too_large_to_upload_are_taken_from_the_home(
    stored: SweepRecord, store: str, tmp_path: Path
) -> None:
    home = tmp_path / "kept"
    folder = too_large(home)
    digest = hashlib.sha256(LARGE).hexdigest()
    picked, run = of_run(stored, store, trial_key=KEY, weights_sha256=digest, weights=str(folder))
    paths = export_model(picked, tmp_path / "out", home=home, tracking_uri=store)
    assert paths["model.safetensors"].read_bytes() == LARGE
    (folder / "private.txt").write_text("not of the model")
    register(picked, "large", home=home, tracking_uri=store)
    uploaded = {file.path for file in open_client(store).list_artifacts(run, "model")}
    assert uploaded > {f"model/{name}" for name in paths} and "model/private.txt" not in uploaded


def test_no_folder_that_a_tag_names_is_uploaded(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    home, secret, digest = tmp_path / "kept", tmp_path / ".ssh", hashlib.sha256(LARGE).hexdigest()
    (home / "trials").mkdir(parents=True)
    secret.mkdir()
    for name in ("recallfront.json", "model.safetensors", "id_ed25519"):
        (secret / name).write_bytes(LARGE)
    (home / "trials" / f"{KEY[:16]}-code-link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "model").symlink_to(secret, target_is_directory=True)
    asked = [
        {"weights": str(secret)},
        {"weights": str(secret), "trial_key": KEY},
        {"weights": str(secret), "trial_key": KEY, "weights_sha256": digest},
        {"weights": str(secret), "trial_key": "../../../.ssh/../../../.ssh", "weights_sha256": digest},
        {"weights": str(secret), "trial_key": "*" * 64, "weights_sha256": digest},
    ]
    for tags in asked:
        picked, run = of_run(stored, store, **tags)
        with pytest.raises(UsageError, match="has no weights of its key and digest"):
            register(picked, "stolen", home=home, tracking_uri=store)
        with pytest.raises(UsageError, match="has no weights of its key and digest"):
            export_model(picked, tmp_path / "out", home=home, tracking_uri=store)
        assert not open_client(store).list_artifacts(run)


def test_other_weights_than_the_runs_are_not_uploaded(
    stored: SweepRecord, store: str, tmp_path: Path
) -> None:
    too_large(tmp_path / "kept")
    picked, _ = of_run(stored, store, trial_key=KEY, weights_sha256=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(UsageError, match="has no weights of its key and digest"):
        register(picked, "large", home=tmp_path / "kept", tracking_uri=store)


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_that_was_damaged_is_neither_written_nor_registered(
    stored: SweepRecord, store: str, tmp_path: Path, name: str
) -> None:
    client, picked = open_client(store), pick(stored)
    client.set_tag(picked.run_id, f"recallfront.{MODEL_DIGEST}", model_digest(tmp_path / picked.run_id))
    assert export_model(picked, tmp_path / "whole", tracking_uri=store)
    assert register(picked, "whole", tracking_uri=store) == "1"
    with (tmp_path / picked.run_id / name).open("ab") as file:
        file.write(b" ")
    client.log_artifact(picked.run_id, str(tmp_path / picked.run_id / name), "model")
    told = f"the model of run {picked.run_id} is damaged: it does not match its digest"
    with pytest.raises(UsageError, match=told):
        export_model(picked, tmp_path / "out", tracking_uri=store)
    with pytest.raises(UsageError, match=told):
        register(picked, "other", tracking_uri=store)
    assert not list((tmp_path / "out").iterdir()) and not client.search_registered_models("name = 'other'")


def test_register_keeps_the_run_and_moves_the_alias(stored: SweepRecord, store: str) -> None:
    client = open_client(store)
    knee = pick(stored)
    first = register(knee, "recall-model", "pareto-knee", tracking_uri=store)
    version = client.get_model_version_by_alias("recall-model", "pareto-knee")
    assert (version.run_id, version.description) == (knee.run_id, knee.reason)
    assert version.source == f"runs:/{knee.run_id}/model"
    assert version.tags["recallfront.trial_key"] == f"key-{knee.run_id}"
    assert version.tags["recallfront.validation_recall"] == "0.8"
    assert version.tags["recallfront.recall"] == "0.75"
    assert version.tags["recallfront.decode_tokens_per_second"] == "900"
    assert version.tags["recallfront.sweep_run_id"] == stored.run_id

    assert register(knee, "recall-model", "pareto-knee", tracking_uri=store) == first  # no second version
    other = pick(stored, where="architecture == hawk", members_only=False)
    second = register(other, "recall-model", "pareto-knee", tracking_uri=store)
    assert second != first
    assert client.get_model_version_by_alias("recall-model", "pareto-knee").run_id == other.run_id
    register(knee, "recall-model", "pareto-knee", tracking_uri=store)
    assert str(client.get_model_version_by_alias("recall-model", "pareto-knee").version) == first


def test_a_version_that_is_picked_again_says_by_whom_and_why_the_last_time(
    stored: SweepRecord, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(store)
    for name, where in (("ada", ""), ("grace", "architecture == based")):
        monkeypatch.setenv("LOGNAME", name)
        picked = pick(stored, where=where or ())
        version = register(picked, "recall-model", tracking_uri=store)
        found = client.get_model_version("recall-model", version)
        assert (version, found.description) == ("1", picked.reason)
        assert found.tags["recallfront.picked_by"] == name
    assert "is the only member of the front with architecture == based" in (found.description or "")
    last, first = picks_of(found)
    assert (last["by"], first["by"]) == ("grace", "ada") and last["at"] >= first["at"] > 0
    assert last["why"] == found.description != first["why"]
    client.set_model_version_tag("recall-model", "1", "recallfront.earlier_picks", '{"by": 3}')
    assert [pick["by"] for pick in picks_of(client.get_model_version("recall-model", "1"))] == ["grace"]


@pytest.mark.parametrize("at", ["inf", "nan", "-1", "1e300", "x", "9" * 400])
def test_moments_that_no_calendar_has_tell_nothing(at: str) -> None:
    version = ModelVersion("m", "1", 5000, description="why")
    plain = {"inf": "Infinity", "nan": "NaN", "x": '"x"'}.get(at, at)  # in JSON
    earlier = json.dumps([{"by": "grace", "at": 4.0, "why": ""}]).replace("4.0", plain)
    told = {"picked_by": "ada", "picked_at": at, "earlier_picks": earlier}
    version.tags.update({f"recallfront.{name}": value for name, value in told.items()})
    assert picks_of(version) == [{"by": "ada", "at": 5.0, "why": "why"}]


def test_brackets_in_brackets_tell_nothing() -> None:
    version = ModelVersion("m", "1", 5000, description="why")
    version.tags["recallfront.earlier_picks"] = "[" * 100_000
    assert len(picks_of(version)) == 1


@pytest.mark.parametrize(("name", "alias"), [("a/b", "knee"), ("", "knee"), ("m", "latest"), ("m", "v1")])
def test_register_explains_what_mlflow_refuses(
    stored: SweepRecord, store: str, name: str, alias: str
) -> None:
    with pytest.raises(UsageError, match="MLflow refused to register"):
        register(pick(stored), name, alias, tracking_uri=store)


def test_a_registered_pick_can_be_fetched_by_its_alias(
    stored: SweepRecord, store: str, tmp_path: Path
) -> None:
    from mlflow.artifacts import download_artifacts

    register(pick(stored), "recall-model", tracking_uri=store)
    version = open_client(store).get_model_version_by_alias("recall-model", "pareto-knee")
    assert version.source is not None
    folder = download_artifacts(version.source, dst_path=str(tmp_path), tracking_uri=store)
    assert (Path(folder) / "model.safetensors").read_bytes() == b"weights of based 1"


def test_a_registered_pick_is_a_model_of_mlflow(
    stored: SweepRecord, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads by its alias, generates what the model itself does, and says what it takes."""
    import mlflow

    client, picked = open_client(store), pick(stored)
    model = build(parse_config({"architecture": "gla", "vocab_size": 11, "width": 8, "num_heads": 2}), seed=3)
    client.log_artifacts(picked.run_id, str(save(model, tmp_path / "real")), "model")
    # whoever may write to the store may have left this; it would run what a folder of the artifacts holds
    code = tmp_path / "code"
    code.mkdir()
    (code / "stolen.py").write_text("raise SystemExit('code of the artifacts was run')")
    client.log_artifacts(picked.run_id, str(code), "model/code")
    (tmp_path / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: stolen, code: code}}\nrun_id: x\n"
    )
    client.log_artifact(picked.run_id, str(tmp_path / "MLmodel"), "model")
    register(picked, "recall-model", tracking_uri=store)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    loaded = mlflow.pyfunc.load_model("models:/recall-model@pareto-knee")
    assert loaded.metadata.run_id == picked.run_id
    flavour = loaded.metadata.flavors["python_function"]
    assert flavour["loader_module"] == "recallfront.platform.front.pyfunc" and flavour["code"] is None
    assert set(loaded.metadata.flavors) == {"python_function"}
    signature = loaded.metadata.signature
    assert signature is not None and signature.params is not None
    assert [spec.name for spec in signature.params.params] == list(PARAMETERS)

    prompts = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    lengths = torch.tensor([4, 2])
    right = generate(model, torch.tensor(prompts).clamp(min=0), lengths=lengths, max_new_tokens=5)
    assert loaded.predict(prompts, params={"max_new_tokens": 5}).tolist() == right
    stop = right[0][2]
    ended = loaded.predict(prompts[:1], params={"max_new_tokens": 5, "stop_token": stop}).tolist()[0]
    assert ended == right[0][: right[0].index(stop) + 1]
    drawn = {"max_new_tokens": 5, "temperature": 1.0, "top_k": 4, "top_p": 0.9, "seed": 7}
    again = generate(
        model, torch.tensor(prompts[:1]), max_new_tokens=5, temperature=1, top_k=4, top_p=0.9, seed=7
    )
    assert loaded.predict(prompts[:1], params=drawn).tolist() == again
    assert loaded.predict(loaded.input_example).shape == (1, PARAMETERS["max_new_tokens"])
    for wrong, message in (
        ([[1, 11]], "from 1 to 11; they must lie between 0 and 10"),
        ([[-2, 1]], "from -2 to 1"),
        ([[-1, 1]], "-1 before a token"),
        ([[1], [-1]], "a row without one"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded.predict(np.array(wrong))


def test_another_model_is_not_written_over(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(pick(stored), out, tracking_uri=store)
    other = pick(stored, where="architecture == hawk", members_only=False)
    with pytest.raises(UsageError, match="has another model: name another folder, or say --force"):
        export_model(other, out, tracking_uri=store)
    assert (out / "model.safetensors").read_bytes() == b"weights of based 1"
    export_model(other, out, tracking_uri=store, force=True)
    assert (out / "model.safetensors").read_bytes() == b"weights of hawk 0"


@pytest.mark.parametrize("asked", [{"maximise": "test_recall"}, {"where": "test_recall >= 0.1"}])
def test_the_test_split_decides_only_when_it_is_told_to(stored: SweepRecord, asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="say --test-split-anyway"):
        pick(stored, **asked)  # type: ignore[arg-type]
    assert pick(stored, **asked, test_split_anyway=True).run_id  # type: ignore[arg-type]
