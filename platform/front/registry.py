"""A picked model as files, and as a version in the MLflow registry.

MLflow is imported where it is first used, so that the command starts fast.
"""

import json
import re
import shutil
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from recallfront.platform.errors import UsageError, root_cause
from recallfront.platform.front.pick import Picked
from recallfront.platform.front.pyfunc import write_mlflow_files
from recallfront.platform.home import home_folder, user_name
from recallfront.platform.home.address import home_name
from recallfront.platform.home.vault import fetch_folder, kept_folders
from recallfront.platform.plugins import installed
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import UnknownRecord
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.runs import MODEL_DIGEST, MODEL_FILES, model_digest
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.trial.workplace import WEIGHTS
from recallfront.sweeps.base import file_digest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_MOST_PICKS = 8  # earlier ones of a version that are kept; a tag holds 5,000 characters
_LONGEST_REASON = 400


def export_model(
    picked: Picked,
    directory: Path | str,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    force: bool = False,
) -> dict[str, Path]:
    """Write the picked model: `recallfront.json` and `model.safetensors` of its best seed -> name: path.

    Raises:
        UsageError: when the run holds no such artifacts, the folder cannot be written, or it has another model and
            `force` is not given.
    """
    from mlflow.exceptions import MlflowException

    client, target = _client(home, tracking_uri), Path(directory)
    if target.exists() and not target.is_dir():
        raise UsageError(f"the model cannot be written to {str(target)!r}: must be a folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            found = model_files(client, picked.run_id, home_folder(home), folder)
            there = [target / name for name in MODEL_FILES if (target / name).exists()]
            if not force and any(file_digest(file) != file_digest(found[file.name]) for file in there):
                raise UsageError(f"{target} has another model: name another folder, or say --force")
            for name, file in found.items():
                shutil.copyfile(file, target / name)
    except (MlflowException, OSError) as error:
        raise UsageError(f"the model of run {picked.run_id} cannot be written to {target}: {error}") from None
    return {name: target / name for name in MODEL_FILES}


def model_files(client: "MlflowClient", run_id: str, home: Path, folder: str) -> dict[str, Path]:
    """The files of a run's model: those of this home, or downloaded into `folder`.

    Raises:
        UsageError: there are none, or they do not have the digest that was recorded with them.
    """
    kept = _own_weights(client, run_id, home) or _downloaded(client, run_id, folder)
    return {name: kept / name for name in MODEL_FILES}


def _downloaded(client: "MlflowClient", run_id: str, folder: str) -> Path:
    for name in MODEL_FILES:
        client.download_artifacts(run_id, f"{WEIGHTS}/{name}", folder)
    found = Path(folder, WEIGHTS)
    # a run of an earlier version has no digest
    if client.get_run(run_id).data.tags.get(TAG + MODEL_DIGEST) not in (None, model_digest(found)):
        raise UsageError(
            f"the model of run {run_id} is damaged: it does not match its digest; `recallfront rerun {run_id}` trains "
            "it again"
        )
    return found


def check_names(name: str | None, alias: str | None) -> None:
    """Raise UsageError unless MLflow's registry takes a model's name and alias, where they are given."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    for check, value in (
        (validation._validate_model_name, name),
        (validation._validate_model_alias_name, alias),
        (validation._validate_model_alias_name_reserved, alias),
    ):
        try:
            if value is not None:
                check(value)
        except MlflowException as error:
            raise UsageError(f"MLflow does not register {value!r}: {root_cause(error)}") from None


def register(
    picked: Picked,
    name: str,
    alias: str = "pareto-knee",
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Register the picked model in the MLflow registry and point the alias at it -> its version.

    `mlflow.pyfunc.load_model("models:/NAME@ALIAS")` loads it, and `predict` generates token ids. The version keeps the
    run's id, so that its lineage is not lost; the same run is never registered twice.

    Raises:
        UsageError: when MLflow refuses the name or the alias.
    """
    from mlflow.exceptions import MlflowException

    client = _client(home, tracking_uri)
    try:
        _complete_artifacts(client, picked.run_id, home_folder(home))
        version = _version_of(client, picked, name)
        if version is None:
            _make_name(client, name)
            version = _new_version(client, picked, name)
        else:
            _pick_again(client, picked, name, version)
        client.set_registered_model_alias(name, alias, version)
    except (MlflowException, OSError) as error:
        raise UsageError(f"MLflow refused to register {name!r} as {alias!r}: {root_cause(error)}") from None
    return version


def _pick_again(client: "MlflowClient", picked: Picked, name: str, version: str) -> None:
    """Say by whom, when and why a version was picked last, and keep what was said before."""
    earlier = picks_of(client.get_model_version(name, version))[:_MOST_PICKS]
    client.set_model_version_tag(name, version, TAG + "earlier_picks", json.dumps(earlier))
    client.set_model_version_tag(name, version, TAG + "picked_by", user_name())
    client.set_model_version_tag(name, version, TAG + "picked_at", str(time.time()))
    client.update_model_version(name, version, description=picked.reason)


def picks_of(version: "ModelVersion") -> list[dict[str, Any]]:
    """By whom, when (seconds since the epoch) and why a version was picked, the last time first.

    Tags that somebody has edited tell nothing.
    """
    why, by = (version.description or "")[:_LONGEST_REASON], version.tags.get(TAG + "picked_by", "")
    created = (version.creation_timestamp or 0) / 1000
    picks = [_pick(by, version.tags.get(TAG + "picked_at"), why) or {"by": by, "at": created, "why": why}]
    try:
        earlier = [
            _pick(str(pick["by"]), pick["at"], str(pick["why"]))
            for pick in json.loads(version.tags.get(TAG + "earlier_picks", "[]"))
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return picks
    return picks + [pick for pick in earlier if pick is not None]


def _pick(by: str, at: Any, why: str) -> dict[str, Any] | None:
    """None if no calendar has its moment: it was not written by us."""
    with suppress(ValueError, TypeError, OverflowError):
        if 0 <= (moment := float(at)) < 2**35:
            return {"by": by, "at": moment, "why": why}
    return None


def _client(home: Path | str | None, tracking_uri: str | None) -> "MlflowClient":
    return open_client(prepare_store(tracking_uri, home_folder(home), create=False))


def _version_of(client: "MlflowClient", picked: Picked, name: str) -> str | None:
    """The version that this run was registered as before."""
    versions = client.search_model_versions(f"run_id = '{picked.run_id}'")
    return next((str(version.version) for version in versions if version.name == name), None)


def _own_weights(client: "MlflowClient", run_id: str, home: Path) -> Path | None:
    """The folder of this home with a run's weights if they were too large to upload; None if it has artifacts.

    Which folder that is follows from the trial's key, never from what the store says: whoever may write there would
    name any folder of this machine. The digest says that these are the weights, and that the store knows them.

    Raises:
        UsageError: this home has no such weights.
    """
    if {f"model/{name}" for name in MODEL_FILES} <= {
        file.path for file in client.list_artifacts(run_id, "model")
    }:
        return None
    tags = client.get_run(run_id).data.tags
    key, digest = (tags.get(TAG + name, "") for name in ("trial_key", "weights_sha256"))
    if re.fullmatch("[0-9a-f]{64}", key) and re.fullmatch("[0-9a-f]{64}", digest):
        for name in kept_folders(home / "trials"):
            if name.startswith(f"{key[:16]}-"):
                fetch_folder(home / "trials" / name / WEIGHTS)
        for folder in sorted((home / "trials").glob(f"{key[:16]}-*/{WEIGHTS}")):
            inside = folder.resolve().is_relative_to((home / "trials").resolve())
            files = [folder / name for name in MODEL_FILES]
            if (
                inside
                and all(file.is_file() and not file.is_symlink() for file in files)
                and file_digest(files[1]) == digest
            ):
                return folder
    raise UsageError(
        f"the model of run {run_id} cannot be written or registered: it is not among the run's artifacts, and "
        f"{home_name(home)}/trials has no weights of its key and digest; give the --home that the trial ran in, or run "
        "it again with `recallfront rerun`"
    )


def _make_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _complete_artifacts(client: "MlflowClient", run_id: str, home: Path) -> None:
    """Upload what the run's `model` folder lacks to be a model of MLflow: its description, and weights kept at home.

    The description is written anew each time: whoever may write to the store may have left one that names other code.
    """
    with TemporaryDirectory() as folder:
        if kept := _own_weights(client, run_id, home):
            for file in MODEL_FILES:  # of all large weights these are wanted
                client.log_artifact(run_id, str(kept / file), WEIGHTS)
        elif TAG + MODEL_DIGEST in client.get_run(run_id).data.tags:
            _downloaded(client, run_id, folder)  # raises unless it is whole
        described = Path(folder, "described")
        write_mlflow_files(described, run_id, _packages(client, run_id))
        client.log_artifacts(run_id, str(described), WEIGHTS)


def _packages(client: "MlflowClient", run_id: str) -> list[str]:
    """Requirements for the plug-ins that the run used, of those installed here: the store may name anything."""
    try:
        used = read_lineage(client.tracking_uri, run_id).environment.plugins
    except UnknownRecord:
        return []
    names = {plugin.name for plugin in used if plugin.version is not None}
    return [f"{name}=={version(name)}" for name in installed() if name in names]


def _new_version(client: "MlflowClient", picked: Picked, name: str) -> str:
    front, candidate = picked.front, picked.candidate
    tags = {
        "picked_by": user_name(),
        "sweep": front.sweep,
        "sweep_key": front.sweep_key,
        "sweep_run_id": front.run_id,
    }
    tags |= {"trial_key": candidate.trial_keys[0], "configuration": candidate.label}
    told = {"recall", "validation_recall", "state_bytes", *(o.metric for o in front.objectives)}
    tags |= {name: f"{value:.6g}" for name, value in candidate.metrics.items() if name in told}
    version = client.create_model_version(
        name,
        source=f"runs:/{picked.run_id}/model",
        run_id=picked.run_id,
        tags={TAG + key: value for key, value in tags.items()},
        description=picked.reason,
    )
    return str(version.version)
