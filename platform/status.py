"""The progress of sweeps and jobs, as tables.

rich is imported where it is first used, so that the command starts fast.
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from recallfront.platform.cluster.jobs import jobs, study_of
from recallfront.platform.errors import UsageError, printable, printable_lines
from recallfront.platform.front.candidates import read_objectives
from recallfront.platform.front.front import hypervolume_of
from recallfront.platform.home import home_folder
from recallfront.platform.metrics import columns_of, show
from recallfront.platform.results.budget import end_of
from recallfront.platform.results.cancellation import CancelRequest
from recallfront.platform.results.labels import trial_label, varying_knobs
from recallfront.platform.results.records import (
    SweepRecord,
    TrialRecord,
    counts_of,
    ended,
    expected_end,
    planned,
    say_counts,
)
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.driverless import driverless
from recallfront.platform.tracking.ledger import SweepSummary, list_sweeps, read_sweep
from recallfront.platform.tracking.records import read_record
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.load import load_study, studies
from recallfront.sweeps.suite import Suite

_BAR = 10  # cells of a bar
_MOST_LISTED = 200  # trials: the page's table has as many

if TYPE_CHECKING:
    from rich.table import Table


def sweeps_table(*, home: Path | str | None = None, tracking_uri: str | None = None) -> "Table":
    """One line a sweep of the store."""
    folder = home_folder(home)
    uri = find_store(tracking_uri, folder)
    table = _table("sweep", "key", "status", "trials", "progress", "expected end", "started", "run")
    sweeps = list_sweeps(uri)
    killed = _killed(sweeps, uri, folder)
    for sweep in sweeps:
        status, is_killed = sweep.tags.get("status", sweep.status.lower()), sweep.run_id in killed
        if status == "interrupted" and (request := CancelRequest.read(sweep.tags)) is not None:
            status = str(request)
        if is_killed:
            status = "killed: run it again to resume"
        counts = counts_of(sweep.tags, driverless=is_killed)
        told = say_counts(counts, planned(sweep.tags)) if "trials_planned" in sweep.tags else ""
        _add_row(
            table,
            sweep.name,
            sweep.sweep_key[:8],
            status,
            told,
            _bar(sweep.tags),
            _end(sweep, uri) if status == "running" else "",
            _when(sweep.start_time),
            sweep.run_id[:8],
        )
    return table


def sweep_table(
    sweep: str | SweepRecord,
    *,
    every: bool = False,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> "Table":
    """One line a trial of a sweep: of very many no more than a person reads, unless `every` one is asked for."""
    record = read_record(sweep, home=home, tracking_uri=tracking_uri).current()
    folder = home_folder(home)
    is_killed = record.tags.get("status") == "running" and bool(
        _killed([record], find_store(tracking_uri, folder), folder)
    )
    columns = columns_of(read_objectives(record.spec))
    table = _table("trial", "status", *columns.values(), "run", "note")
    varying = varying_knobs(record.trials)
    listed = record.trials if every else _listed(record.trials)
    for trial in listed:
        figures = [show(name, trial.metrics[name]) if name in trial.metrics else "" for name in columns]
        _add_row(
            table,
            trial_label(trial, varying),
            "unfinished"
            if is_killed and trial.status is Status.RUNNING
            else trial.status.value.replace("_", " "),
            *figures,
            trial.run_id[:8],
            "; ".join(filter(None, (trial.failure, trial.tags.get("notice")))),
        )
    left = len(record.trials) - len(listed)
    captions = [f"--all lists {left:,} more"] if left else []
    table.caption = "\n".join([*captions, *_captions(record, is_killed)]) or None
    return table


def _listed(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that run, failed or have a notice before the others, and the latest before the earlier ones."""
    places = sorted((_is_usual(trial), -place) for place, trial in enumerate(trials))[:_MOST_LISTED]
    return [trials[place] for place in sorted(-negative for _, negative in places)]


def _is_usual(trial: TrialRecord) -> bool:
    """Whether a trial has ended as many do, and has nothing to say beside its figures."""
    return trial.status.counts_as in ("finished", "pruned", "invalid") and not trial.tags.get("notice")


def _killed(sweeps: Sequence[SweepSummary | SweepRecord], uri: str, folder: Path) -> set[str]:
    """The runs of the sweeps that say that they run and have no driver any more."""
    with suppress(UsageError):  # the store has gone away since: what was read is shown
        return driverless(sweeps, uri, folder, wait=True, by_clock=True)
    return set()


def _bar(tags: Mapping[str, str]) -> str:
    total = planned(tags)
    done = min(ended(counts_of(tags)), total) * _BAR // total if total else 0
    return "█" * done + "░" * (_BAR - done) if total else ""


def _end(sweep: SweepSummary, uri: str) -> str:
    """When a sweep that runs is to end; of one with a budget its record is read for it."""
    end = expected_end(sweep.tags)
    if end is not None and sweep.tags.get("budget_left"):
        with suppress(UsageError):  # one that cannot be read keeps no other from being listed
            end = end_of(read_sweep(uri, sweep.run_id).current())
    return "" if end is None else _when(end)


def _captions(record: SweepRecord, is_killed: bool) -> list[str]:
    """What is to be said below a sweep's trials."""
    running = record.tags.get("status") == "running" and not is_killed
    nodes = Counter(trial.tags.get("node", "") for trial in record.with_status(Status.RUNNING))
    nodes.pop("", None)
    captions = ["killed: run it again to resume"] if is_killed else []
    if record.with_status(Status.FINISHED):
        captions.append(f"hypervolume {hypervolume_of(record):,.4g}")
    if running and nodes:
        captions.append(
            "running on " + ", ".join(f"{node}: {number}" for node, number in sorted(nodes.items()))
        )
    if running and record.tags.get("waiting"):
        captions.append(record.tags["waiting"])
    if record.tags.get("budget_left"):
        captions.append(record.tags["budget_left"])
    if running and (end := end_of(record)) is not None:
        captions.append(f"expected end {_when(end)}")
    return captions


def studies_table() -> "Table":
    """One line a study that comes with the package; its scale is where it is made to run."""
    table = _table("study", "scale", "trials", "expected", "claims", "question")
    for name in studies():
        study = load_study(name)
        first = study.parts[0].spec if isinstance(study, Suite) else study
        minutes = study.expected_minutes
        _add_row(
            table,
            name,
            "gpu" if first.resources.gpus else "cpu",
            str(study.number_of_trials),
            "–" if minutes is None else f"{minutes:g} min",
            str(study.number_of_claims if isinstance(study, Suite) else len(study.claims)),
            study.question,
        )
    return table


def jobs_table(address: str, job: str | None = None) -> "Table":
    """One line a sweep that was sent to a cluster."""
    table = _table("job", "study", "status", "started", "message")
    for found in jobs(address, job):
        started = _when(found.start_time / 1000) if found.start_time else ""
        message = " ".join((found.message or "").split())
        _add_row(
            table,
            printable(str(found.submission_id)),
            study_of(found),
            found.status.value.lower(),
            started,
            message,
        )
    return table


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add_row(table: "Table", *cells: str) -> None:
    """A row whose cells are shown as they are, if a terminal may be given them: rich takes brackets for markup."""
    from rich.text import Text

    table.add_row(*(Text(printable_lines(cell)) for cell in cells))


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
