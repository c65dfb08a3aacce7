"""The report of a sweep: question, method, front, curves, claims, how to run it again, and lineage."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from recallfront.platform.errors import UsageError
from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.next_steps import next_commands, run_command
from recallfront.platform.front.pictures.appearance import summary
from recallfront.platform.front.pictures.contexts import contexts_picture, contexts_table
from recallfront.platform.front.pictures.curves import (
    Course,
    best_of_each,
    curves_picture,
    drawn_by_kind,
    kinds_of,
    kinds_picture,
)
from recallfront.platform.front.pictures.document import (
    Cells,
    Commands,
    DocumentBlock,
    Heading,
    Paragraph,
)
from recallfront.platform.front.pictures.png import picture
from recallfront.platform.front.pictures.report_parts import (
    claims_blocks,
    draw,
    lineage_rows,
    reruns_blocks,
    settings,
    to_run,
    written,
)
from recallfront.platform.front.tables import PLACE_MARKS
from recallfront.platform.home import home_folder
from recallfront.platform.lineage.environment import TrialLineage
from recallfront.platform.metrics import columns_of, metric
from recallfront.platform.results.records import SweepRecord, TrialRecord, count, say_counts
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_reruns, read_sweep
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.spec import spelt_out


@dataclass(frozen=True)
class _Findings:
    """All that a report tells of a sweep."""

    record: SweepRecord
    front: Front
    judgements: tuple[Judgement, ...]
    courses: Sequence[Course]
    lineage: TrialLineage
    reruns: Sequence[TrialRecord]


def write_report(
    sweep: str, out: Path | str, *, home: Path | str | None = None, tracking_uri: str | None = None
) -> dict[str, Path]:
    """Write `report.md`, `report.html`, their figures and the specification to a folder -> kind: path.

    Raises:
        UsageError: there is no such sweep, none of its trials has finished, or the folder cannot be written.
    """
    uri = find_store(tracking_uri, home_folder(home))
    record = read_sweep(uri, sweep).current()
    front = build_front(record)
    if not front.candidates:
        raise UsageError(f"sweep {record.name!r} has no finished trial to report")
    courses = _courses(uri, front)
    lineage = read_lineage(uri, front.candidates[0].run_ids[0])
    found = _Findings(record, front, judge(record), courses, lineage, read_reruns(uri, record.trials))
    return written(lambda folder: _blocks(found, folder), Path(out), _specification(record))


def _courses(uri: str, front: Front) -> list[Course]:
    """The validation recall of the best configuration of each architecture, as it grew."""
    client = open_client(uri)

    def points(run_id: str) -> list[tuple[int, float]]:
        found = {m.step: m.value for m in client.get_metric_history(run_id, "validation_recall")}
        return sorted(found.items())

    return [Course(best, [points(run_id) for run_id in best.run_ids]) for best in best_of_each(front)]


def _blocks(found: _Findings, folder: Path) -> Iterator[DocumentBlock]:
    spec, front = found.record.spec, found.front
    yield Heading(found.record.name, 1)
    for text in (spec.get("question"), spec.get("description")):
        if text:
            yield Paragraph(" ".join(str(text).split()))
    if found.judgements:
        yield from claims_blocks(found.judgements, folder)
    yield Heading("Method")
    yield Cells(("setting", "value"), _method(found.record))
    yield Heading("Front")
    yield draw(picture(front), folder, "front", summary(front))
    yield _configurations(front)
    yield from _contexts(front, folder)
    if any(len(points) > 1 for course in found.courses for points in course.seeds):
        yield Heading("Curves")
        yield draw(
            curves_picture(found.courses),
            folder,
            "curves",
            "Recall on validation data while the best configuration of each architecture is trained: the mean of its "
            "seeds, and the band between the least and the most.",
        )
    told = drawn_by_kind(front)
    if kinds := kinds_of(told):
        which = "each configuration" if len(told) == len(front.candidates) else "each architecture's best"
        caption = f"Recall on test by kind of rows, of {which}."
        yield draw(kinds_picture(told, kinds), folder, "kinds", caption)
    yield Heading("How to run it again")
    yield Commands(_again(found))
    yield from reruns_blocks(found.record.trials, found.reruns)
    yield Heading("Lineage")
    yield Cells(("what", "value"), lineage_rows(found.record, found.lineage))


def _contexts(front: Front, folder: Path) -> Iterator[DocumentBlock]:
    """Throughput over contexts, where it was measured at several."""
    pictures = {
        name: contexts_picture(drawn_by_kind(front), f"{name}_tokens_per_second")
        for name in ("decode", "prefill")
    }
    if not any(pictures.values()):
        return
    yield Heading("Contexts")
    for name, found in pictures.items():
        if found is not None:
            title = metric(f"{name}_tokens_per_second").title
            yield draw(
                found, folder, name, f"{title} by context, with the spread between repeats.".capitalize()
            )
    yield contexts_table(front.candidates)


def _method(record: SweepRecord) -> list[list[str]]:
    spec = record.spec
    rows = [["task", settings(spec.get("task", {}))], ["models", settings(spec.get("model", {}))]]
    rows += [["", settings(block)] for block in spec.get("space", ())]
    for name in ("start", "training", "measurement", "resources", "search", "early_stopping"):
        if spec.get(name):
            rows.append([name.replace("_", " "), settings(spec[name])])
    rows.append(["objectives", "; ".join(f"{o['metric']} ({o['direction']})" for o in spec["objectives"])])
    rows.append(["seeds", ", ".join(map(str, spec.get("seeds", ())))])
    rows.append(["trials", say_counts(count(record))])
    return rows


def _configurations(front: Front) -> Cells:
    columns = columns_of(front.objectives)
    rows = [
        [
            PLACE_MARKS[c.on_front, c.certain] + (" knee" if c is front.knee else ""),
            c.label,
            *map(c.describe, columns),
            str(c.n_seeds),
            "; ".join(c.doubts),
        ]
        for c in front.candidates
    ]
    return Cells(("front", "configuration", *columns.values(), "seeds", "doubts"), rows)


def _again(found: _Findings) -> list[str]:
    record = found.record
    name, key = to_run(record.name, record.sweep_key), record.sweep_key[:8]
    files = found.lineage.environment.plugin_files
    commands = [command for _, command in next_commands(found.front, key, plugins=files)]
    return [f"recallfront {run_command(name, files)}", *commands]


def _specification(record: SweepRecord) -> str:
    """The sweep's specification, with all defaults written out, as a file that `recallfront run` reads."""
    plain = json.loads(json.dumps(spelt_out(record.spec)))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
