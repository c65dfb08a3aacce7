"""Running a trial again from its lineage alone, and judging what came of it.

Ray Train and rich are imported where they are first used, so that the command starts fast.
"""

import math
import shutil
import uuid
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from recallfront.models.configs.explain import explain
from recallfront.platform.cluster.connection import ray_cluster
from recallfront.platform.errors import UsageError, printable
from recallfront.platform.home import home_folder, user_name
from recallfront.platform.home.data import kept, prepared
from recallfront.platform.home.vault import check_home
from recallfront.platform.lineage.code_version import code_version
from recallfront.platform.lineage.comparison import compare_lineage
from recallfront.platform.lineage.environment import Lineage, TrialLineage, collect, packages_text
from recallfront.platform.lineage.source import diff_text
from recallfront.platform.metrics import compared
from recallfront.platform.plugins import load, require, ship
from recallfront.platform.results.records import TAG, TrialRecord
from recallfront.platform.results.reports import MetricRow, Report
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import find_run
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.runs import trial_params, write_end, write_lineage
from recallfront.platform.tracking.store import prepare_store
from recallfront.platform.tracking.writer import TrackingWriter
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.start import check_start
from recallfront.platform.trial.workplace import Workplace
from recallfront.sweeps.data import questions as questions_of
from recallfront.sweeps.tasks.base import Task
from recallfront.sweeps.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from rich.table import Table

_TOLERANCE_DEVIATIONS = 3.0  # of the difference of two recalls that differ by chance alone


class Verdict(StrEnum):
    """What a rerun found."""

    IDENTICAL = "identical"
    REPRODUCED = "reproduced"
    DRIFTED = "drifted"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Comparison:
    """One metric of both runs."""

    metric: str
    values: int  # how many were compared
    equal: int  # how many of them bit for bit
    before: float | None  # the last value
    after: float | None


@dataclass(frozen=True)
class Rerun:
    """A second run of a trial beside the first."""

    run_id: str
    rerun_of: str
    verdict: Verdict
    reason: str
    comparisons: tuple[Comparison, ...] = field(repr=False)
    differences: tuple[str, ...]  # of code, packages and machine, in words

    def table(self) -> "Table":
        """What was compared, as a table for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"rerun of {self.rerun_of[:8]}", box=None, header_style="bold")
        for column in ("metric", "equal", "first run", "rerun"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for c in self.comparisons:
            shown = ["-" if value is None else f"{value:.6g}" for value in (c.before, c.after)]
            table.add_row(Text(printable(c.metric)), f"{c.equal} of {c.values}", *shown)
        if self.differences:
            table.caption = Text("differs: " + "; ".join(self.differences))
        return table


def rerun(
    run: str,
    *,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
    plugins: Iterable[Path | str] = (),
) -> Rerun:
    """Rebuild a trial from its lineage, run it in this process, log it as a new run tagged `rerun_of`, and compare.

    Throughput is measured again and reported; it is not compared bit for bit. A trial that was pruned is run as far as
    it came.

    Args:
        run: a run's id or a trial's key, or the first digits of one.
        home: the folder of all outputs.
        tracking_uri: the MLflow store that holds the run.
        plugins: files that the run had as plug-ins; installed ones are loaded in any case.

    Raises:
        UsageError: there is no such run, its lineage cannot be read or is not possible with this version, or a plug-in
            that it had or the model that it started from is missing or has changed.
    """
    load(plugins)
    folder = home_folder(home).resolve()
    uri = prepare_store(tracking_uri, folder, create=False)
    first = find_run(uri, run)
    lineage = read_lineage(uri, first.run_id)
    require(lineage.environment.plugins, first.run_id)
    try:
        config = TrialConfig.model_validate(lineage.config)
    except ValidationError as error:
        raise UsageError(
            f"run {first.run_id}: this version cannot run its configuration: {explain(error, TrialConfig)}"
        ) from None
    if config.start is not None and config.start.sha256 is None and not uri.startswith("sqlite:"):
        # what is trained on goes back to the server, which could name any model of this machine
        raise UsageError(
            f"run {first.run_id} starts from {config.start.folder!r} without a digest: a model that a server names is "
            "not taken from this machine unless the specification gave start.sha256"
        )
    check_home(folder)
    check_start(config.start)
    data, data_digest = _data(config.task, folder, lineage.data_digest)
    scratch = f"reruns/{uuid.uuid4().hex[:12]}"
    place = Workplace(
        home=folder,
        data=data,
        data_digest=data_digest,
        code_version=code_version(),
        device="cuda:0" if config.resources.gpus else "cpu",
        scratch=scratch,
        remeasure=True,
        plugins=ship(folder),
    )
    before = _history(open_client(uri), first)
    was_ended = first.status in (Status.PRUNED, Status.DOMINATED)
    pruned_at = max(before["loss"], default=0) if was_ended else None
    rows: list[MetricRow] = []
    last, environment = Report(step=0), None
    try:
        with closing(_reports(config, place)) as reports:
            for last in reports:
                rows += last.rows
                environment = environment or last.environment  # of the process that trained
                if pruned_at is not None and last.step >= pruned_at:
                    last.status = first.status
                    break
        found = Lineage.model_validate(environment) if environment else collect(folder)
        now = lineage.model_copy(update={"environment": found, "data_digest": data_digest})
        comparisons = _compare(before, rows, first, last)
        differences = tuple(map(str, compare_lineage(lineage.environment, now.environment)))
        verdict, reason = _judge(config, lineage, place, first, last, comparisons)
        run_id = _log(uri, folder, config, now, first, rows, last, verdict, reason, differences)
    finally:
        shutil.rmtree(folder / scratch, ignore_errors=True)
    return Rerun(run_id, first.run_id, verdict, reason, comparisons, differences)


def _data(task: Task, home: Path, digest: str | None) -> tuple[Path, str]:
    """The data that a run had, if the home has them still; else what its sources are now -> (path, digest)."""
    path = None if digest is None else kept(task, home, digest)
    return prepared(task, home) if digest is None or path is None else (path, digest)


def _reports(config: TrialConfig, place: Workplace) -> Generator[Report, None, None]:
    if config.resources.workers == 1:
        yield from run_trial(config, place)
        return
    from recallfront.platform.workers.train_job import run_distributed_trial

    with ray_cluster(None):
        yield from run_distributed_trial(config, place)


def _history(client: "MlflowClient", run: TrialRecord) -> dict[str, dict[int, float]]:
    return {
        metric: {m.step: m.value for m in client.get_metric_history(run.run_id, metric)}
        for metric in compared("curve")
    }


def _compare(
    before: dict[str, dict[int, float]], rows: list[MetricRow], first: TrialRecord, last: Report
) -> tuple[Comparison, ...]:
    after: dict[str, dict[int, float]] = {metric: {} for metric in compared("curve")}
    for metric, value, step, _ in rows:
        if metric in after:
            after[metric][step] = value
    for metric in compared("final"):
        before[metric] = {0: first.metrics[metric]} if metric in first.metrics else {}
        after[metric] = {0: last.figures[metric]} if metric in last.figures else {}
    found = []
    for metric, values in before.items():
        steps = sorted(values.keys() | after[metric].keys())
        equal = sum(values.get(step) == after[metric].get(step) for step in steps)
        ends = [series[max(series)] if series else None for series in (values, after[metric])]
        found.append(Comparison(metric, len(steps), equal, *ends))
    return tuple(found)


def _judge(
    config: TrialConfig,
    lineage: TrialLineage,
    place: Workplace,
    first: TrialRecord,
    last: Report,
    comparisons: tuple[Comparison, ...],
) -> tuple[Verdict, str]:
    data_digest = place.data_digest
    if lineage.data_digest != data_digest:
        return Verdict.NOT_COMPARABLE, (
            f"the data is not the same: its digest was {str(lineage.data_digest)[:16]} and is {data_digest[:16]}"
        )
    if first.status is not last.status:
        return (
            Verdict.NOT_COMPARABLE,
            f"the first run ended as {first.status.value}, the rerun as {last.status.value}{_why(last)}",
        )
    compared = sum(c.values for c in comparisons)
    equal = sum(c.equal for c in comparisons)
    ended = "" if last.status is Status.FINISHED else f"; both runs ended as {last.status.value}"
    if 0 < compared == equal:
        return Verdict.IDENTICAL, f"all {compared} values of losses and recall are equal, bit for bit{ended}"
    if ended:
        return Verdict.REPRODUCED, f"{equal} of {compared} values are equal{ended}"
    recalls = first.metrics["recall"], last.figures["recall"]
    over = config.training.recall_over
    questions = questions_of(config.task, place.data, data_digest, "test", over=over)
    if questions == 0:
        return Verdict.NOT_COMPARABLE, (
            f"{equal} of {compared} values are equal, and the test split asks nothing that recall could decide by"
        )
    mean = sum(recalls) / 2
    chance = _TOLERANCE_DEVIATIONS * math.sqrt(max(2 * mean * (1 - mean), 1 / questions) / questions)
    difference = abs(recalls[0] - recalls[1])
    said = f"recall {recalls[0]:.4f} became {recalls[1]:.4f}; chance moves it by up to {chance:.4f}"
    verdict = Verdict.REPRODUCED if difference <= chance else Verdict.DRIFTED
    return verdict, f"{equal} of {compared} values are equal; {said}"


def _why(last: Report) -> str:
    """What went wrong in a rerun; the last line of a traceback says it."""
    return f" ({last.failure.strip().splitlines()[-1]})" if last.failure else ""


def _log(
    uri: str,
    home: Path,
    config: TrialConfig,
    lineage: TrialLineage,
    first: TrialRecord,
    rows: list[MetricRow],
    last: Report,
    verdict: Verdict,
    reason: str,
    differences: tuple[str, ...],
) -> str:
    client = open_client(uri)
    run = client.get_run(first.run_id)
    key = f"rerun:{uuid.uuid4().hex}"
    tags = {
        "kind": "rerun",
        "rerun_of": first.run_id,
        "trial_key": config.key,
        "code_version": lineage.environment.code_version,
        "data_digest": lineage.data_digest,
        "verdict": verdict.value,
        "reason": reason,
        "differences": "; ".join(differences),
    }
    told = {f"{TAG}{tag}": str(value) for tag, value in tags.items()}
    parent = {name: value for name, value in run.data.tags.items() if name == "mlflow.parentRunId"}
    spool = home / "spool" / f"{key.replace(':', '-')}.sqlite"
    with closing(TrackingWriter(uri, spool)) as writer:
        writer.open_run(
            key,
            experiment=client.get_experiment(run.info.experiment_id).name,
            name=f"rerun of {run.info.run_name}",
            tags=told | parent | ({"mlflow.user": user} if (user := user_name()) else {}),
            params=trial_params(config),
        )
        write_lineage(writer, key, lineage.model_dump_json(indent=1), diff_text(home), packages_text())
        write_end(writer, key, replace(last, rows=rows))
        if not writer.flush(300.0):
            raise UsageError(f"the MLflow store {uri!r} took no more of the rerun; it waits in {spool}")
        run_id = writer.run_id(key, timeout=1.0)
    for leftover in spool.parent.glob(f"{spool.stem}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return str(run_id)
