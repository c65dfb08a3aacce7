"""Digests of text artifacts and of figures: MLflow keeps none, so that what was changed would be believed."""

import hashlib
import logging
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import TAG, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.sweeps.base import text_digest

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FIGURES: Final = "figures_sha256"  # tag of a finished trial: the digest of its figures, and their names
_MOST_NAMES: Final = 6000  # characters
_NAME: Final = re.compile(r"[\w. -]{1,250}")  # which MLflow takes
_damaged: Final = set[tuple[str, str]]()  # runs that were found so in this process, each with its tag


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
    if run.data.tags.get(tag, text_digest(text)) != text_digest(text):
        raise UsageError(
            f"run {run.info.run_id}: its artifact {artifact_file} does not match the digest in its tag {tag}: it was "
            "damaged or edited, or a driver is just writing it"
        )


def figures_tag(figures: Mapping[str, float]) -> str:
    """The digest of figures and their names, the shortest names first and as many as fit a tag.

    What the run gets later, by an evaluation or by hand, is not among them.
    """
    names, left = [], _MOST_NAMES
    for name in sorted(filter(_NAME.fullmatch, figures), key=lambda name: (len(name), name)):
        left -= len(name) + 1
        if left < 0:
            break
        names.append(name)
    joined = ",".join(names)
    return f"{_figures_digest(joined, [figures[name] for name in names])} {joined}"


def with_figures(trial: TrialRecord, figures: Mapping[str, float]) -> TrialRecord:
    """A trial that has further figures, or others than it had, with the tag of what they are now."""
    metrics = {**trial.metrics, **figures}
    names = {*_names(trial.tags.get(FIGURES, "").partition(" ")[2]), *figures}
    tag = figures_tag({name: metrics[name] for name in names})
    return replace(trial, metrics=metrics, tags=trial.tags | {FIGURES: tag})


def is_whole(trial: TrialRecord) -> bool:
    """Whether a trial's figures are those that it ended with, as far as its run tells."""
    is_told = trial.status is Status.FINISHED and FIGURES in trial.tags
    return not is_told or are_whole(trial.metrics, trial.tags[FIGURES])


def damaged(trial: TrialRecord) -> TrialRecord:
    """A finished trial that has other figures than it ended with counts as lost: then it is none of a front's."""
    told = (
        f"run {trial.run_id} is damaged: its figures do not match the digest in its tag {TAG}{FIGURES}, and are left "
        "out until its sweep is run again: that reads them from the home, or runs the trial again"
    )
    logger.warning("%s", told)
    _damaged.add((trial.run_id, trial.tags[FIGURES]))
    return replace(trial, status=Status.LOST, metrics={}, failure=told)


def was_damaged(trial: TrialRecord) -> bool:
    """Whether this process has found a trial damaged before, and nothing has been told of its figures since."""
    return (trial.run_id, trial.tags.get(FIGURES)) in _damaged


def are_whole(figures: Mapping[str, float], tag: str) -> bool:
    """Whether the figures of a run are those that its tag is of."""
    told, _, joined = tag.partition(" ")
    try:
        return told == _figures_digest(joined, [figures[name] for name in _names(joined)])
    except KeyError:
        return False


@lru_cache(maxsize=64)  # the trials of a sweep have the same
def _names(joined: str) -> tuple[str, ...]:
    return tuple(joined.split(",")) if joined else ()


def _figures_digest(joined: str, values: Iterable[float]) -> str:
    # stores do not keep the sign of zero, nor that of what is not a number
    exact = [math.nan if math.isnan(value) else value + 0.0 for value in values]
    return hashlib.sha256(joined.encode() + struct.pack(f"<{len(exact)}d", *exact)).hexdigest()


def _tag(artifact_file: str) -> str:
    return f"{TAG}{Path(artifact_file).stem}_sha256"
