"""The report of a suite: question, claims over its tasks, scores, what they are drawn from, and lineage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recallfront.platform.errors import UsageError
from recallfront.platform.front.across import across_tasks
from recallfront.platform.front.candidates import Candidate, gather
from recallfront.platform.front.claims import judge
from recallfront.platform.front.next_steps import plugin_options, rerun_command, run_command
from recallfront.platform.front.pictures.curves import scatter_picture
from recallfront.platform.front.pictures.document import Cells, Commands, DocumentBlock, Heading, Paragraph
from recallfront.platform.front.pictures.report_parts import (
    claims_blocks,
    draw,
    lineage_rows,
    reruns_blocks,
    settings,
    to_run,
    written,
)
from recallfront.platform.front.scores import Scores, scores, sweeps_of
from recallfront.platform.home import home_folder
from recallfront.platform.lineage.environment import TrialLineage
from recallfront.platform.metrics import named_in_condition, title_of
from recallfront.platform.results.labels import varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord, count, say_counts
from recallfront.platform.results.status import Status
from recallfront.platform.tracking.ledger import read_reruns
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.load import load_study, read_text, studies
from recallfront.sweeps.suite import Suite


@dataclass(frozen=True)
class _Findings:
    """All that a report tells of a suite."""

    suite: Suite
    asked: str  # the study or file, as it was given
    scores: Scores
    sweeps: Sequence[tuple[str, SweepRecord]]
    candidates: Sequence[Candidate]
    lineages: Sequence[TrialLineage]  # of the sweeps
    reruns: Sequence[TrialRecord]


def is_suite(study_or_file: str) -> bool:
    """Whether that is the name or the file of a suite, rather than a sweep of the store."""
    there = study_or_file in studies() or Path(study_or_file).is_file()
    return there and isinstance(load_study(study_or_file), Suite)


def write_suite_report(
    study_or_file: str, out: Path | str, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> dict[str, Path]:
    """Write `report.md`, `report.html`, their figures and the suite's file to a folder -> kind: path.

    Raises:
        UsageError: no sweep of the suite has a finished trial, or the folder cannot be written.
        SpecError: the suite cannot be read.
    """
    suite = load_study(study_or_file)
    if not isinstance(suite, Suite):
        raise UsageError(f"{study_or_file}: is one sweep: give its name as the store has it")
    uri = find_store(tracking_uri, home_folder(home))
    sweeps = [(task, record) for task, record in sweeps_of(suite, uri) if record.with_status(Status.FINISHED)]
    if not sweeps:
        raise UsageError(f"suite {suite.name!r} has no finished trial to report")
    joined = across_tasks(sweeps, suite.means)
    varying = varying_knobs(trial for trials in joined for trial in trials)
    found = _Findings(
        suite,
        study_or_file,
        scores(suite, uri),
        sweeps,
        [gather(trials, varying) for trials in joined],
        [read_lineage(uri, record.with_status(Status.FINISHED)[0].run_id) for _, record in sweeps],
        read_reruns(uri, [trial for _, record in sweeps for trial in record.trials]),
    )
    return written(lambda folder: _blocks(found, folder), Path(out), read_text(study_or_file))


def _blocks(found: _Findings, folder: Path) -> Iterator[DocumentBlock]:
    suite = found.suite
    yield Heading(suite.name, 1)
    for text in (suite.question, suite.description):
        if text:
            yield Paragraph(" ".join(text.split()))
    if found.scores.judgements:
        yield from claims_blocks(found.scores.judgements, folder)
        yield from _scatters(found, folder)
    yield from _claims_of_sweeps(found, folder)
    yield Heading("Scores")
    columns = found.scores.columns()
    rows = zip(*columns.values(), strict=True)
    yield Cells(list(columns), [[_cell(value) for value in row] for row in rows])
    yield Paragraph(
        "Recall on test of each architecture's configuration of the highest validation recall, the mean over a task's "
        "settings."
    )
    yield Heading("Configurations")
    yield _configurations(found)
    yield Heading("Method")
    yield Cells(("sweep", "setting", "value"), _method(found))
    yield Heading("How to run it again")
    file = to_run(suite.name, suite.key)
    trials = [trial for _, record in found.sweeps for trial in record.trials]
    again = next(trial.run_id for trial in trials if trial.status is Status.FINISHED)
    # each sweep has those of its own
    used = dict.fromkeys(name for one in found.lineages for name in one.environment.plugin_files)
    report = f"report {file} --out FOLDER{plugin_options(used)}"
    commands = (run_command(file, used), report, rerun_command(again, used))
    yield Commands([f"recallfront {command}" for command in commands])
    yield from reruns_blocks(trials, found.reruns)
    yield Heading("Lineage")
    for (_, record), lineage in zip(found.sweeps, found.lineages, strict=True):
        yield Heading(record.name, 3)
        yield Cells(("what", "value"), lineage_rows(record, lineage))


def _claims_of_sweeps(found: _Findings, folder: Path) -> Iterator[DocumentBlock]:
    """The verdicts on the claims that sweeps of the suite have of their own."""
    for number, (_, record) in enumerate(found.sweeps, start=1):
        if judgements := judge(record):
            title, name = f"Claims of {record.name}", f"claims-{number}"
            yield from claims_blocks(judgements, folder, title=title, name=name)


def _scatters(found: _Findings, folder: Path) -> Iterator[DocumentBlock]:
    """A picture of each pair of figures whose relation a claim measures."""
    drawn = []
    for judged in found.scores.judgements:
        for measure in judged.claim.parsed.values():
            if measure.over is None or (measure.metric, measure.over) in drawn:
                continue
            drawn.append((measure.metric, measure.over))
            across, up = named_in_condition(measure.over), named_in_condition(measure.metric)
            having = [c for c in found.candidates if across in c.metrics and up in c.metrics]
            if having:
                caption = f"{title_of(up)} against {title_of(across)}, of each configuration, with spreads over seeds."
                picture = scatter_picture(having, across, up, log=measure.log)
                yield draw(picture, folder, f"relation-{len(drawn)}", caption)


def _asked(found: _Findings) -> list[str]:
    """The metrics that the suite's claims name, in their order."""
    names = [
        named_in_condition(name)
        for judged in found.scores.judgements
        for measure in judged.claim.parsed.values()
        for name in (measure.over, measure.metric)
        if name is not None
    ]
    return list(dict.fromkeys(names))


def _configurations(found: _Findings) -> Cells:
    names = _asked(found) or [f"{task}.recall" for task in found.suite.tasks]
    rows = [[c.label, *map(c.describe, names), str(c.n_seeds)] for c in found.candidates]
    return Cells(("configuration", *map(title_of, names), "seeds"), rows)


def _method(found: _Findings) -> list[list[str]]:
    rows = []
    for _, record in found.sweeps:
        spec = record.spec
        named = ("task", "model", "start", "training", "measurement")
        told = {name: settings(spec[name]) for name in named if spec.get(name)}
        told["space"] = "; ".join(settings(block) for block in spec.get("space", ()))
        told["seeds"] = ", ".join(map(str, spec.get("seeds", ())))
        told["trials"] = say_counts(count(record))
        rows += [[record.name, name, value] for name, value in told.items()]
    return rows


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
