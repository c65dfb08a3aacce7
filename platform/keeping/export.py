"""Writes a sweep into one archive: its specification, its trials' records, curves and lineage, its front, its weights.

MLflow is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from recallfront import __version__
from recallfront.platform.front.registry import model_files
from recallfront.platform.home import home_folder
from recallfront.platform.keeping.archive import ArchiveWriter, check_path, writing_archive
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.ledger import read_sweep, runs_of, writing
from recallfront.platform.tracking.runs import MODEL_FILES
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.trial.workplace import WEIGHTS

if TYPE_CHECKING:
    from mlflow.entities import Run

    from recallfront.platform.tracking.artifacts import GuardedClient

RUN_FILE: Final = "run.json"
KEPT_ARTIFACTS: Final = "artifacts"
# MLflow's tags that are a run's own: others tell of its store
_KEPT_FILES: Final = (".json", ".txt", ".patch", ".py", ".csv", ".md")
KEPT_TAGS: Final = ("mlflow.note.content", "mlflow.user", "mlflow.loggedArtifacts")


@dataclass(frozen=True)
class Export:
    """What was written."""

    file: Path
    name: str
    sweep_key: str
    runs: int
    bytes: int


def export(
    sweep: str,
    file: Path | str,
    *,
    weights: bool = False,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> Export:
    """Write a sweep into a new archive.

    Args:
        sweep: its name, key or run id.
        file: the archive, a zip file.
        weights: with the weights of its trials, which may be large.
        home: the folder of all outputs: it holds weights that were too large to upload.
        tracking_uri: the MLflow store.

    Raises:
        UsageError: there is no such sweep, the file is there already, or weights are missing.
    """
    target, folder = Path(file), home_folder(home)
    uri = prepare_store(tracking_uri, folder, create=False)
    record = read_sweep(uri, sweep)
    with writing(uri) as client, writing_archive(target) as archive:
        runs = runs_of(client, record)
        for number, run_id in enumerate(runs):
            _write_run(archive, client, run_id, f"runs/{number:06d}", weights=weights, home=folder)
        about = {"recallfront": __version__, "sweep_key": record.sweep_key, "name": record.name}
        archive.seal(about | {"run_id": record.run_id, "weights": weights})
    return Export(target, record.name, record.sweep_key, len(runs), target.stat().st_size)


def _write_run(
    archive: ArchiveWriter, client: "GuardedClient", run_id: str, place: str, *, weights: bool, home: Path
) -> None:
    run = client.get_run(run_id)
    client.remember(run)
    histories = {
        name: [[m.step, m.timestamp, m.value] for m in client.get_metric_history(run_id, name)]
        for name in sorted(run.data.metrics)
    }
    archive.json(f"{place}/{RUN_FILE}", _described(run) | {"metrics": histories})
    with TemporaryDirectory() as folder:
        for path in _artifacts(client, run_id):
            file = Path(client.download_artifacts(run_id, path, folder))
            archive.file(f"{place}/{KEPT_ARTIFACTS}/{path}", file)
        kind, status = (run.data.tags.get(TAG + name) for name in ("kind", "status"))
        if weights and kind == "trial" and status == "finished":
            for name, file in model_files(client, run_id, home, folder).items():
                archive.file(f"{place}/{KEPT_ARTIFACTS}/{WEIGHTS}/{name}", file)


def _described(run: "Run") -> dict[str, Any]:
    tags = {name: value for name, value in run.data.tags.items() if name.startswith(TAG) or name in KEPT_TAGS}
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "start_time": run.info.start_time,
        "end_time": run.info.end_time,
        "tags": tags,
        "params": dict(run.data.params),
    }


def is_kept(path: str) -> bool:
    """Whether an artifact belongs into an archive: what recallfront writes does, of a model its two files."""
    try:
        check_path(path)
    except ValueError:
        return False
    folder, _, name = path.rpartition("/")
    if path.split("/")[0] == WEIGHTS:
        return folder == WEIGHTS and name in MODEL_FILES
    return name.endswith(_KEPT_FILES) or folder == "front"


def _artifacts(client: "GuardedClient", run_id: str, folder: str | None = None) -> Iterator[str]:
    """The paths of a run's artifacts that belong into an archive, those of its model left out."""
    for found in client.list_artifacts(run_id, folder):
        if found.path == WEIGHTS:
            continue
        if found.is_dir:
            yield from _artifacts(client, run_id, found.path)
        elif is_kept(found.path):
            yield found.path
