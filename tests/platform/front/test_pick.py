"""Picking from records, and writing out and registering what was picked from a real MLflow store."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recallfront.models import build, parse_config, save
from recallfront.models.decoding.generation import generate
from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.conditions import parse_conditions
from recallfront.platform.front.front import build_front
from recallfront.platform.front.pick import Picked, pick
from recallfront.platform.front.pyfunc import PARAMETERS
from recallfront.platform.front.registry import export, register
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.places import artifact_location
from tests.platform.stores import ready_store

# SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

SPEC = {
    "objectives": [
        {"metric": "recall", "direction": "max", "reference": 0.0},
        {"metric": "decode_tokens_per_second", "direction": "max", "reference": 0.0},
    ]
}


def trial(
    run_id: str,
    architecture: str,
    recall: float,
    speed: float,
    state: int,
    *,
    status: Status = Status.FINISHED,
    seed: int = 0,
    **knobs: Any,
) -> TrialRecord:
    return TrialRecord(
        run_id=run_id,
        trial_key=f"key-{run_id}",
        status=status,
        config={"model": {"architecture": architecture} | knobs, "seed": seed},
        metrics={
            "recall": recall - 0.05,
            "validation_recall": recall,
            "decode_tokens_per_second": speed,
            "decode_tokens_per_second_spread": speed / 100,
            "state_bytes": state,
        },
        end_time=1.0,
    )


@pytest.fixture
def record() -> SweepRecord:
    trials = (
        trial("a", "attention", 0.99, 1000, 8192),
        trial("g1", "grouped", 0.95, 2500, 4096, group_size=8),
        trial("g2", "grouped", 0.93, 2400, 2048, group_size=16),
        trial("b", "based", 0.80, 3500, 2048, window_size=4),
        trial("w", "window", 0.40, 4000, 1024, window_size=8),
        trial("h", "hawk", 0.35, 3900, 256),
        trial("lost", "griffin", 1.0, 9999, 1, status=Status.PRUNED),
    )
    return SweepRecord(run_id="parent", sweep_key="abc", name="study", spec=SPEC, trials=trials)


def test_the_fastest_with_enough_recall(record: SweepRecord) -> None:
    picked = pick(record, where="recall >= 0.9", maximise="decode_tokens_per_second")
    assert picked.run_id == "g1"
    assert picked.runner_up is not None and picked.runner_up.architecture == "attention"
    assert picked.reason == (
        "grouped · group_size 8 has the highest decode tokens/s, 2,500 ±25, of the 2 members of "
        "the front with recall >= 0.9 (validation recall 0.950, recall on test 0.900); "
        "next is attention with 1,000 ±10."
    )


def test_the_knee_is_chosen_when_nothing_else_is_asked(record: SweepRecord) -> None:
    picked = pick(record)
    assert picked.candidate == build_front(record).knee == pick(record, knee=True).candidate
    assert picked.candidate.architecture == "based"
    assert "is the knee of the 4 members of the front" in picked.reason
    assert "above the line between their ends" in picked.reason


def test_a_front_without_a_knee_is_told_as_such(record: SweepRecord) -> None:
    picked = pick(record, where="architecture != grouped and architecture != based")
    assert picked.candidate.architecture == "attention"
    assert "the end of best validation recall of the 2 members" in picked.reason
    assert "no knee" in picked.reason
    with pytest.raises(UsageError, match="there is no knee among the 2 members of the front with"):
        pick(record, where="architecture != grouped and architecture != based", knee=True)


def test_what_is_no_better_than_the_reference_is_no_knee(record: SweepRecord) -> None:
    """Nor an end of the line that the knee lies above."""
    useless = trial("zero", "hawk", 0.0, 90_000, 256)
    with_it = replace(record, trials=(*record.trials, useless))
    assert build_front(with_it).knee == build_front(record).knee == pick(with_it).candidate
    alone = replace(record, trials=(useless, trial("low", "window", 0.0, 95_000, 1)))
    assert build_front(alone).knee is None
    with pytest.raises(UsageError, match="no knee"):
        pick(alone, knee=True)


@pytest.mark.parametrize(
    ("where", "members_only", "expected"),
    [
        (["recall >= 0.9", "state_bytes < 8192"], True, ["g1"]),
        ("recall >= 0.9 and state_bytes < 8192", False, ["g1", "g2"]),
        ("test_recall>=0.89", True, ["a", "g1"]),
        ("architecture == based", True, ["b"]),
        ("architecture == 'based' AND window_size == 4", True, ["b"]),
        ("window_size != 8", False, ["a", "g1", "g2", "b", "h"]),
        ("window_size == none", False, ["a", "g1", "g2", "h"]),
        ("group_size > 8", False, ["g2"]),
        ("contribution > 0", True, ["a", "g1", "b", "w"]),
        ("decode_tokens_per_second >= 3.9e3", False, ["w", "h"]),
        ("n_seeds == 1 and recall < 0.4", False, ["h"]),
        ((), True, ["a", "g1", "b", "w"]),
    ],
)
def test_conditions(record: SweepRecord, where: Any, members_only: bool, expected: list[str]) -> None:
    front = build_front(record)
    conditions = parse_conditions(where, front.candidates)
    pool = front.members if members_only else front.candidates
    found = [c.run_ids[0] for c in pool if all(condition.holds(c) for condition in conditions)]
    assert sorted(found) == sorted(expected)


def test_off_the_front_only_when_asked(record: SweepRecord) -> None:
    assert pick(record, minimise="state_bytes").run_id == "w"
    anywhere = pick(record, minimise="state_bytes", members_only=False)
    assert anywhere.run_id == "h"
    assert anywhere.reason.startswith("hawk has the lowest state, 256 B, of the 6 configurations (")


def test_the_only_match(record: SweepRecord) -> None:
    picked = pick(record, where="recall > 0.97", maximise="state_bytes")
    assert picked.reason.startswith("attention is the only member of the front with recall > 0.97 (")
    assert picked.runner_up is None


def test_equal_values_go_to_the_higher_recall(record: SweepRecord) -> None:
    assert pick(record, maximise="n_seeds").run_id == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "recall"}, r"condition 'recall': write `name op value`"),
        ({"where": "recall >= "}, r"write `name op value`"),
        ({"where": "recall >= 0.9 and"}, r"write `name op value`"),
        ({"where": ""}, r"write `name op value`"),
        ({"where": "0.5 < recall < 0.9"}, r"write `name op value`"),
        ({"where": "recall => 0.9"}, r"'=>' is not one of >= <= == != > <"),
        ({"where": "recall = 0.9"}, r"'=' is not one of"),
        ({"where": "recall >= high"}, r">= needs a number after it, got 'high'"),
        ({"where": "recall >= nan"}, r">= needs a number"),
        ({"where": "recall >= '0.9'"}, r">= needs a number"),
        (
            {"where": "recal >= 0.9"},
            r"no candidate has 'recal'; did you mean recall\? known are architecture, ",
        ),
        ({"where": "__import__('os') == 1"}, r"write `name op value`"),
        ({"maximise": "speed"}, r"^metric to maximise: no candidate has 'speed'"),
        ({"minimise": "architecture"}, r"architecture is not a number for any of the 4 members of the front"),
        (
            {"maximise": "recall", "knee": True},
            r"only one of a metric to maximise \(--max\), .* and the knee \(--knee\)",
        ),
        (
            {"where": "recall >= 0.999"},
            r"no member of the front with recall >= 0.999; the nearest is attention with recall 0.990$",
        ),
        (
            {"where": "recall >= 0.9 and decode_tokens_per_second >= 2900"},
            r"the nearest is grouped · group_size 8 with recall 0.950, decode_tokens_per_second 2,500 ±25$",
        ),
        (
            {"where": "state_bytes < 1024"},
            r"nearest is window .* \(1 off the front would match: use --any\)$",
        ),
        (
            {"where": "architecture == griffin"},
            r"there is no member of the front with architecture == griffin",
        ),
    ],
)
def test_what_cannot_be_picked_is_explained(record: SweepRecord, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pick(record, **options)


def test_nothing_to_pick_from(record: SweepRecord) -> None:
    empty = SweepRecord("parent", "abc", "study", SPEC, record.trials[-1:])
    with pytest.raises(UsageError, match=r"no finished trial to pick from \(1 pruned\)"):
        pick(empty)


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
    paths = export(picked, tmp_path / "out" / "model", tracking_uri=store)
    assert paths["recallfront.json"].read_text() == '{"architecture": "based"}'
    assert paths["model.safetensors"].read_bytes() == b"weights of based 1"
    assert sorted(p.name for p in (tmp_path / "out" / "model").iterdir()) == sorted(paths)
    # again, found by its home
    assert export(picked, tmp_path / "out" / "model", home=tmp_path / "home") == paths


def test_export_explains_what_is_missing(stored: SweepRecord, store: str, tmp_path: Path) -> None:
    picked = pick(stored)
    gone = open_client(store).create_run("1").info.run_id
    bare = replace(picked, candidate=replace(picked.candidate, run_ids=(gone,)))
    with pytest.raises(UsageError, match=f"the model of run {gone} cannot be written"):
        export(bare, tmp_path / "out", tracking_uri=store)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        export(picked, tmp_path / "file", tracking_uri=store)


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
    paths = export(picked, tmp_path / "out", home=home, tracking_uri=store)
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
            export(picked, tmp_path / "out", home=home, tracking_uri=store)
        assert not open_client(store).list_artifacts(run)


def test_other_weights_than_the_runs_are_not_uploaded(
    stored: SweepRecord, store: str, tmp_path: Path
) -> None:
    too_large(tmp_path / "kept")
    picked, _ = of_run(stored, store, trial_key=KEY, weights_sha256=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(UsageError, match="has no weights of its key and digest"):
        register(picked, "large", home=tmp_path / "kept", tracking_uri=store)


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
    export(pick(stored), out, tracking_uri=store)
    other = pick(stored, where="architecture == hawk", members_only=False)
    with pytest.raises(UsageError, match="has another model: name another folder, or say --force"):
        export(other, out, tracking_uri=store)
    assert (out / "model.safetensors").read_bytes() == b"weights of based 1"
    export(other, out, tracking_uri=store, force=True)
    assert (out / "model.safetensors").read_bytes() == b"weights of hawk 0"


@pytest.mark.parametrize("asked", [{"maximise": "test_recall"}, {"where": "test_recall >= 0.1"}])
def test_the_test_split_decides_only_when_it_is_told_to(stored: SweepRecord, asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="say --test-split-anyway"):
        pick(stored, **asked)  # type: ignore[arg-type]
    assert pick(stored, **asked, test_split_anyway=True).run_id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "condition", "holds"),
    [
        ("none", "k == none", True),
        ("none", "k != none", False),
        (None, "k == none", True),
        (None, "k == null", True),
        (None, "k == 'none'", False),
        ("none", "k == 'none'", True),
        ("alibi", "k != none", True),
        (4, "k == '4'", True),
        (4, "k != '4'", False),
        (4, "k == 4.0", True),
        (1, "k == true", False),
        (True, "k == 1", False),
        (True, "k == true", True),
        (False, "k != false", False),
        ("true", "k == true", False),
    ],
)
def test_conditions_compare_like_with_like(value: object, condition: str, holds: bool) -> None:
    candidate = Candidate("attention", {"k": value}, {}, {}, ("r",), ("t",))  # type: ignore[dict-item]
    assert parse_conditions(condition, [candidate])[0].holds(candidate) == holds
