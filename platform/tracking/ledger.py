"""The ledger: what a sweep has found so far, read back from its MLflow runs.

MLflow is imported where it is first used, so that the command starts fast.
"""

import datetime
import json
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recallfront.platform.errors import UsageError, printable, printable_lines, root_cause
from recallfront.platform.results.records import TAG, SweepRecord, TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.results.tags import own_name, read_object
from recallfront.platform.tracking.client import fail_fast, open_client, pages
from recallfront.platform.tracking.digests import check_digest, damaged, is_whole, was_damaged
from recallfront.platform.tracking.experiments import every_experiment, half_deleted
from recallfront.platform.tracking.sqlite import SqliteReader, StoreReader

if TYPE_CHECKING:
    from mlflow.entities import Run

    from recallfront.platform.tracking.artifacts import GuardedClient

CONFIG_TAG: Final = TAG + "config"
MAX_CONFIG_TAG: Final = 6000  # characters; a longer config is read from the artifact config.json
PAGE: Final = 1000
_INFINITE: Final = 1.797e308  # MLflow's SQL stores write infinity as the largest double
_REQUEST_SECONDS: Final = 60
_MOMENT_SECONDS: Final = 0.5  # for the rest of a request whose first half has been read
_SHOWN: Final = 10
_OF_LINES: Final = frozenset({"failure", "notice"})  # tags that may have several lines


class UnknownRecord(UsageError):
    """The store answers, but has no sweep or run of that name."""


class StoreFailure(UsageError):
    """The store does not answer, or not as a store does."""


@dataclass(frozen=True)
class SweepSummary:
    """One line about a sweep: its parent run without the trials."""

    run_id: str
    sweep_key: str
    name: str  # the study
    status: str  # RUNNING, FINISHED, FAILED or KILLED: MLflow's own
    start_time: float  # seconds since the epoch
    end_time: float | None
    tags: dict[str, str]  # without the prefix `recallfront.`
    metrics: dict[str, float] = field(default_factory=dict)  # last value of each


def config_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """The tag that lets the ledger read a trial's config without an artifact; empty if it is too long."""
    text = json.dumps(config, separators=(",", ":"), default=str)
    return {CONFIG_TAG: text} if len(text) <= MAX_CONFIG_TAG else {}


def list_sweeps(tracking_uri: str) -> list[SweepSummary]:
    """Every sweep of the store, the newest first. Raises UsageError if the store cannot be read."""
    with reading(tracking_uri) as client:
        return _summaries(client)


def find_sweep(tracking_uri: str, sweep: str) -> SweepSummary:
    """The sweep that `sweep` names, without its trials; raises as `read_sweep` does."""
    with reading(tracking_uri) as client:
        return _choose(_summaries(client), sweep, tracking_uri)


def read_sweep(
    tracking_uri: str, sweep: str, *, spec: dict[str, Any] | None = None, besides: str | None = None
) -> SweepRecord:
    """The sweep named by a study, or >= 6 first digits of a sweep key or of a parent run id.

    Args:
        spec: its specification as JSON, if the caller has it; else it is read.
        besides: the key of a sweep that is not meant.

    Raises:
        UnknownRecord: there is no such sweep, or the name or the digits fit several.
        UsageError: the store cannot be read.
    """
    with reading(tracking_uri) as client:
        others = [summary for summary in _summaries(client) if summary.sweep_key != besides]
        found = _choose(others, sweep, tracking_uri)
        spec = _read_json(client, client.get_run(found.run_id), "spec.json") if spec is None else spec
        trials = read_trials(client, found.run_id)
    return SweepRecord(found.run_id, found.sweep_key, found.name, spec, trials, found.tags)


def read_trials(client: StoreReader, parent_run_id: str) -> tuple[TrialRecord, ...]:
    """Every trial under one parent run, in the order they were started."""
    experiment_id = client.get_run(parent_run_id).info.experiment_id
    children = f"tags.`mlflow.parentRunId` = '{parent_run_id}' AND tags.`{TAG}kind` = 'trial'"
    return _trials(client, lambda: _search(client, [experiment_id], children, newest_first=False))


def runs_of(client: "GuardedClient", record: SweepRecord) -> list[str]:
    """The ids of a sweep's runs: its own, its trials' of any version, and those of their reruns."""
    trials = [trial.run_id for trial in read_trials(client, record.run_id)]
    return [record.run_id, *trials, *(run.info.run_id for run in _reruns(client, trials))]


def read_reruns(tracking_uri: str, trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The reruns of some trials, the newest first; raises as `read_sweep` does."""
    with reading(tracking_uri) as client:
        return _trials(client, lambda: _reruns(client, [trial.run_id for trial in trials]))


def _reruns(client: StoreReader, run_ids: Collection[str]) -> "Iterator[Run]":
    found = _search(client, list(_experiments(client)), f"tags.`{TAG}kind` = 'rerun'")
    return (run for run in found if run.data.tags.get(TAG + "rerun_of") in run_ids)


def read_deleted(tracking_uri: str, sweep_key: str) -> SweepRecord | None:
    """A sweep that was deleted in MLflow, with its trials, deleted or not, as far as their keys; None if none was."""
    from mlflow.entities import ViewType

    with _through_mlflow(tracking_uri, "read") as client:
        every = every_experiment(client)
        everywhere = [experiment.experiment_id for experiment in every]
        half = half_deleted({e.experiment_id: e.name for e in every if e.lifecycle_stage == "active"})

        def runs(kind: str, view: int) -> "list[Run]":
            own = f"tags.`{TAG}sweep_key` = '{sweep_key}' AND tags.`{TAG}kind` = '{kind}'"
            return list(
                pages(lambda at: client.search_runs(everywhere, own, view, max_results=PAGE, page_token=at))
            )

        sweeps = runs("sweep", ViewType.ALL)
        gone = [s.info for s in sweeps if s.info.lifecycle_stage == "deleted" or s.info.experiment_id in half]
        if not gone:
            return None
        trials = runs("trial", ViewType.ALL)
    return SweepRecord(
        run_id=gone[0].run_id,
        sweep_key=sweep_key,
        name="",
        spec={},
        trials=tuple(
            TrialRecord(
                run_id=run.info.run_id,
                trial_key=run.data.tags.get(TAG + "trial_key", ""),
                status=Status.LOST,
                config={},
                metrics={},
                tags=_own_tags(run) | {"deleted": str(run.info.lifecycle_stage == "deleted")},
            )
            for run in trials
        ),
    )


def find_run(tracking_uri: str, run: str) -> TrialRecord:
    """The trial (or rerun) named by a run id, or >= 6 first digits of a run id or trial key.

    A trial key stands for the newest run of that trial, or of its reruns where there is no other.

    Raises:
        UnknownRecord: there is no such run, or the digits fit several.
        UsageError: the store cannot be read.
    """
    digits = run.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{6,64}", digits):
        raise UnknownRecord(
            f"run {run!r} is not a run id or trial key: give at least 6 of its first hex digits"
        )
    with reading(tracking_uri) as client:
        experiments = _experiments(client)
        matches = [
            candidate
            for condition in (
                f"attributes.run_id LIKE '{digits}%'",
                f"tags.`{TAG}trial_key` LIKE '{digits}%'",
            )
            for candidate in _search(client, list(experiments), condition)
            if candidate.data.tags.get(TAG + "kind") in ("trial", "rerun")
        ]
        keys = {match.data.tags.get(TAG + "trial_key", "") for match in matches}
        if len(keys) > 1:
            raise UnknownRecord(f"run {run!r} may be any of {_some(keys)}: give more digits")
        if not matches:
            sweeps = _summaries(client)
            if own := [sweep for sweep in sweeps if sweep.run_id.startswith(digits)]:
                raise UnknownRecord(
                    f"run {run!r} is the sweep {own[0].name}, not a trial: `recallfront status {own[0].sweep_key[:8]}` "
                    "lists its trials"
                )
            raise UnknownRecord(f"there is no run {run!r} in {tracking_uri}: {_hint(sweeps)}")
        exact = [match for match in matches if match.info.run_id.startswith(digits)]
        trials = [match for match in matches if match.data.tags[TAG + "kind"] == "trial"]
        chosen = (exact or trials or matches)[0].info.run_id
        return _trials(client, lambda: [client.get_run(chosen)])[0]


def read_artifact(client: StoreReader, run_id: str, artifact_file: str) -> str | None:
    """A text artifact of a run; None if it has none of that name. Raises UsageError if it is not text."""
    folder, _, _ = artifact_file.rpartition("/")
    if artifact_file not in [info.path for info in client.list_artifacts(run_id, folder or None)]:
        return None
    with tempfile.TemporaryDirectory() as place:
        file = Path(client.download_artifacts(run_id, artifact_file, place))
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UsageError(
                f"run {run_id}: its artifact {artifact_file} is not text: it was damaged, or another program wrote it"
            ) from None


@contextmanager
def reading(tracking_uri: str) -> Iterator[StoreReader]:
    """A reader of a store whose failures are raised as a StoreFailure, within about a minute."""
    try:
        reader = SqliteReader.open(tracking_uri)
        if reader is not None:
            with closing(reader):
                yield reader
                return
    except (sqlite3.Error, OSError) as error:
        raise StoreFailure(
            f"the MLflow store {tracking_uri!r} cannot be read: {root_cause(error)}"
        ) from error
    with _through_mlflow(tracking_uri, "read") as client:
        yield client


def writing(tracking_uri: str) -> "AbstractContextManager[GuardedClient]":
    """A client to change a store with, past the writer of a sweep; failures are raised as with `reading`."""
    return _through_mlflow(tracking_uri, "changed")


@contextmanager
def _through_mlflow(tracking_uri: str, what: str) -> "Iterator[GuardedClient]":
    from mlflow.exceptions import MlflowException

    try:
        with fail_fast(_REQUEST_SECONDS):
            yield open_client(tracking_uri)
    except (MlflowException, OSError) as error:
        raise StoreFailure(
            f"the MLflow store {tracking_uri!r} cannot be {what}: {root_cause(error)}"
        ) from error


def _summaries(client: StoreReader) -> list[SweepSummary]:
    experiments = _experiments(client)
    return [
        SweepSummary(
            run_id=printable(run.info.run_id),
            sweep_key=printable(run.data.tags.get(TAG + "sweep_key", "")),
            name=experiments[run.info.experiment_id],
            status=run.info.status,
            start_time=run.info.start_time / 1000,
            end_time=_end_time(run),
            tags=_own_tags(run),
            metrics={name: _value(value) for name, value in run.data.metrics.items()},
        )
        for run in _search(client, list(experiments), f"tags.`{TAG}kind` = 'sweep'")
    ]


def _choose(sweeps: Sequence[SweepSummary], sweep: str, tracking_uri: str) -> SweepSummary:
    """The sweep that `sweep` names, the newest run of it. `sweeps` are the newest first."""
    wanted = sweep.strip()
    named = [found for found in sweeps if found.name == wanted]
    if not named and re.fullmatch(r"[0-9a-fA-F]{6,64}", wanted):
        digits = wanted.lower()
        named = [found for found in sweeps if found.sweep_key.startswith(digits)]
        named = named or [found for found in sweeps if found.run_id.startswith(digits)]
    if not named:
        raise UnknownRecord(f"there is no sweep {sweep!r} in {tracking_uri}: {_hint(sweeps)}")
    if len({found.sweep_key for found in named}) > 1:
        told = [f"{found.sweep_key[:8]} ({found.name}, {_when(found.start_time)})" for found in named]
        raise UnknownRecord(f"sweep {sweep!r} may be any of {_some(told)}: give the digits of one")
    return named[0]


def _when(seconds: float) -> str:
    return f"started {datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _hint(sweeps: Sequence[SweepSummary]) -> str:
    names = [f"{found.name} ({found.sweep_key[:8]})" for found in sweeps]
    return f"its sweeps are {_some(names)}" if names else "it has no sweeps yet"


def _some(names: set[str] | list[str]) -> str:
    shown = list(dict.fromkeys(names if isinstance(names, list) else sorted(names)))
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _experiments(client: StoreReader) -> dict[str, str]:
    """Names of the experiments by id, without those that are there only until their deletion is done."""
    found = pages(lambda at: client.search_experiments(max_results=PAGE, page_token=at))
    names = {experiment.experiment_id: experiment.name for experiment in found}
    half = half_deleted(names)
    return {own: printable(name) for own, name in names.items() if own not in half}


def _search(
    client: StoreReader, experiment_ids: list[str], condition: str, *, newest_first: bool = True
) -> "Iterator[Run]":
    order = ["attributes.start_time " + ("DESC" if newest_first else "ASC")]
    if not experiment_ids:
        return iter(())
    return pages(
        lambda at: client.search_runs(
            experiment_ids, condition, max_results=PAGE, order_by=order, page_token=at
        )
    )


def _trials(client: StoreReader, search: "Callable[[], Iterable[Run]]") -> tuple[TrialRecord, ...]:
    """What a search finds, as trials.

    Where figures do not match their digest, which MLflow stores after them, the search is made once more, and what has
    been deleted by then is left out. For a run that was found damaged before, waiting does not help.
    """
    found = {run.info.run_id: _trial(client, run) for run in search()}
    odd = {run_id for run_id, trial in found.items() if not is_whole(trial)}
    if not all(was_damaged(found[run_id]) for run_id in odd):
        time.sleep(_MOMENT_SECONDS)
        again = {run.info.run_id: _trial(client, run) for run in search() if run.info.run_id in odd}
        for run_id in odd - again.keys():
            del found[run_id]
        found |= again
    return tuple(
        damaged(trial) if run_id in odd and not is_whole(trial) else trial for run_id, trial in found.items()
    )


def _trial(client: StoreReader, run: "Run") -> TrialRecord:
    tags = _own_tags(run)
    in_tag = run.data.tags.get(CONFIG_TAG)
    return TrialRecord(
        run_id=printable(run.info.run_id),
        trial_key=tags.get("trial_key", ""),
        status=_status(run.info.run_id, tags.get("status", Status.RUNNING)),
        config=read_object(in_tag, f"run {run.info.run_id}: its tag {CONFIG_TAG}")
        if in_tag
        else _read_json(client, run, "config.json"),
        metrics={name: _value(value) for name, value in run.data.metrics.items()},
        tags=tags,
        failure=tags.get("failure") or None,
        start_time=run.info.start_time / 1000,
        end_time=_end_time(run),
    )


def _own_tags(run: "Run") -> dict[str, str]:
    """Without the prefix, and as a terminal may be given them: whoever writes to the store wrote them."""
    return {
        own: (printable_lines if own in _OF_LINES else printable)(value)
        for key, value in run.data.tags.items()
        if (own := own_name(key)) and own != "config"
    }


def _end_time(run: "Run") -> float | None:
    """Of a reopened run MLflow keeps the end that it had before."""
    ended = run.info.status != "RUNNING" and run.info.end_time is not None
    return run.info.end_time / 1000 if ended else None


def _value(value: float) -> float:
    if abs(value) >= _INFINITE:
        return float("inf") if value > 0 else float("-inf")
    return value


def _read_json(client: StoreReader, run: "Run", artifact_file: str) -> dict[str, Any]:
    """A JSON artifact; empty where the run has none (yet)."""
    text = read_artifact(client, run.info.run_id, artifact_file)
    check_digest(run, artifact_file, text)
    return read_object(text, f"run {run.info.run_id}: its artifact {artifact_file}") if text else {}


def _status(run_id: str, tag: str) -> Status:
    try:
        return Status(tag)
    except ValueError:
        known = ", ".join(Status)
        raise UsageError(
            f"run {run_id}: its tag {TAG}status is {tag[:60]!r}; it must be one of {known}"
        ) from None
