"""Digests of text artifacts: MLflow keeps none, so that a letter which was changed would be believed."""

from pathlib import Path
from typing import TYPE_CHECKING

from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import TAG
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.base import digest

if TYPE_CHECKING:
    from mlflow.entities import Run


def write_checked(writer: TrackingWriter, key: str, text: str, artifact_file: str) -> None:
    """Store a text as an artifact of a run, and its digest as a tag once that is there."""
    writer.text(key, text, artifact_file, digest_tag=_tag(artifact_file))


def check_digest(run: "Run", artifact_file: str, text: str | None) -> None:
    """Raise UsageError if the run has another digest of this artifact; runs of earlier versions have none.

    Of an artifact that is missing, `text` is None: then a digest says that it was there.
    """
    tag = _tag(artifact_file)
    if text is None:
        if tag in run.data.tags:
            raise UsageError(f"run {run.info.run_id}: its artifact {artifact_file} is missing")
        return
    if run.data.tags.get(tag, digest(text)) != digest(text):
        raise UsageError(
            f"run {run.info.run_id}: its artifact {artifact_file} does not match the digest in its tag {tag}: it was "
            "damaged or edited, or a driver is just writing it"
        )


def _tag(artifact_file: str) -> str:
    return f"{TAG}{Path(artifact_file).stem}_sha256"
