"""What every run of a trial holds in MLflow, be it a sweep's or a rerun."""

import json
from pathlib import Path
from typing import Any, Final

from recallfront.platform.lineage.environment import LINEAGE_FILE
from recallfront.platform.plugins import sources_in_use
from recallfront.platform.results.records import TAG
from recallfront.platform.results.reports import Report, now_ms
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.digests import FIGURES, figures_tag, write_checked
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.base import canonical_json, file_digest, text_digest
from recallfront.sweeps.trial import TrialConfig

MODEL_FILES: Final = ("recallfront.json", "model.safetensors")  # a trial's artifacts under `model/`
MODEL_DIGEST: Final = "model_sha256"  # tag of a run whose model was uploaded
_LARGEST_UPLOAD = 64 * 2**20  # bytes; larger weights stay where they are, and the run says where


def write_lineage(writer: TrackingWriter, key: str, lineage: str, diff: str | None, packages: str) -> None:
    """Store a run's lineage: what `read_lineage` reads, the uncommitted changes, the package lock, plug-ins' files."""
    write_checked(writer, key, lineage, LINEAGE_FILE)
    writer.text(key, packages, "lineage/packages.txt")
    if diff:
        writer.text(key, diff, "lineage/diff.patch")
    for name, text in sources_in_use().items():
        writer.text(key, text, f"lineage/plugins/{name}")


def write_end(writer: TrackingWriter, key: str, report: Report) -> None:
    """Store how a trial ended: its last rows, figures, status and failure, and the weights of a finished one."""
    is_finished = report.status is Status.FINISHED
    figures = [(name, value, report.step, now_ms()) for name, value in report.figures.items()]
    told = {figure[:3] for figure in figures}
    writer.metrics(key, [row for row in report.rows if row[:3] not in told])
    writer.metrics(key, figures, final=is_finished)
    tags = {f"{TAG}status": report.status.value, f"{TAG}steps": str(report.step)}
    if is_finished:
        tags[TAG + FIGURES] = figures_tag(report.figures)
    if report.failure:
        tags[f"{TAG}failure"] = report.failure
    if report.details:
        writer.text(key, json.dumps(report.details, indent=1), "measurement.json")
    if report.traceback:
        writer.text(key, report.traceback, "traceback.txt")
    if report.weights:
        folder = Path(report.weights)
        if sum(file.stat().st_size for file in folder.iterdir()) <= _LARGEST_UPLOAD:
            writer.artifact(key, folder)
            tags[TAG + MODEL_DIGEST] = model_digest(folder)
        else:
            tags[f"{TAG}weights"] = report.weights  # for people: it is never followed
            tags[f"{TAG}weights_sha256"] = file_digest(folder / "model.safetensors")
    writer.tags(key, tags)
    writer.close_run(key, "FAILED" if report.status.is_failure else "FINISHED")


def model_digest(folder: Path) -> str:
    """One sha256 of the files of a model, as 64 hexadecimal digits."""
    return text_digest(canonical_json({name: file_digest(folder / name) for name in MODEL_FILES}))


def trial_params(config: TrialConfig) -> dict[str, Any]:
    """A trial's settings as flat MLflow params: the model's by name, the training's with the prefix `training.`."""
    training = {f"training.{k}": v for k, v in config.training.model_dump(mode="json").items()}
    return {**config.model.model_dump(mode="json"), **training, "seed": config.seed, "task": config.task.name}
