"""The report of a sweep: question, method, front, curves, claims, how to run it again, and lineage."""

import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

from recallfront.platform.errors import UsageError
from recallfront.platform.front.claims import Judgement, judge
from recallfront.platform.front.front import Front, build_front
from recallfront.platform.front.history import devices
from recallfront.platform.front.next_steps import next_commands
from recallfront.platform.front.pictures.appearance import summary
from recallfront.platform.front.pictures.curves import (
    DPI,
    Course,
    best_of_each,
    claims_picture,
    curves_picture,
    kinds_of,
    kinds_picture,
)
from recallfront.platform.front.pictures.document import (
    Block,
    Cells,
    Commands,
    Heading,
    Paragraph,
    Picture,
    as_html,
    as_markdown,
)
from recallfront.platform.front.pictures.png import picture
from recallfront.platform.front.tables import PLACE_MARKS
from recallfront.platform.home import home_folder
from recallfront.platform.lineage.environment import TrialLineage
from recallfront.platform.metrics import columns_of, duration
from recallfront.platform.results.records import SweepRecord, count, say_counts
from recallfront.platform.tracking.client import open_client
from recallfront.platform.tracking.ledger import read_sweep
from recallfront.platform.tracking.lineage import read_lineage
from recallfront.platform.tracking.store import find_store
from recallfront.sweeps.load import studies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPECIFICATION = "specification.yaml"
_COLOURS = 256


@dataclass(frozen=True)
class _Findings:
    """All that a report tells of a sweep."""

    record: SweepRecord
    front: Front
    judgements: tuple[Judgement, ...]
    courses: Sequence[Course]
    lineage: TrialLineage


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
    found = _Findings(record, front, judge(record), courses, lineage)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        blocks = list(_blocks(found, folder))
        paths = {"markdown": folder / "report.md", "html": folder / "report.html"}
        paths["markdown"].write_text(as_markdown(blocks), encoding="utf-8")
        paths["html"].write_text(as_html(blocks), encoding="utf-8")
        paths["specification"] = folder / _SPECIFICATION
        paths["specification"].write_text(_specification(record), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written: {error.strerror}") from None
    return paths


def _courses(uri: str, front: Front) -> list[Course]:
    """The validation recall of the best configuration of each architecture, as it grew."""
    client = open_client(uri)

    def points(run_id: str) -> list[tuple[int, float]]:
        found = {m.step: m.value for m in client.get_metric_history(run_id, "validation_recall")}
        return sorted(found.items())

    return [Course(best, [points(run_id) for run_id in best.run_ids]) for best in best_of_each(front)]


def _blocks(found: _Findings, folder: Path) -> Iterator[Block]:
    spec, front = found.record.spec, found.front
    yield Heading(found.record.name, 1)
    for text in (spec.get("question"), spec.get("description")):
        if text:
            yield Paragraph(" ".join(str(text).split()))
    if found.judgements:
        yield from _claims(found.judgements, folder)
    yield Heading("Method")
    yield Cells(("setting", "value"), _method(found.record))
    yield Heading("Front")
    yield _draw(picture(front), folder, "front", summary(front))
    yield _configurations(front)
    yield Heading("Curves")
    yield _draw(
        curves_picture(found.courses),
        folder,
        "curves",
        "Recall on validation data while the best configuration of each architecture is trained: the mean of its "
        "seeds, and the band between the least and the most.",
    )
    best = [course.candidate for course in found.courses]
    if kinds := kinds_of(best):
        caption = "Recall on test by kind of rows, of the best configuration of each architecture."
        yield _draw(kinds_picture(best, kinds), folder, "kinds", caption)
    yield Heading("How to run it again")
    yield Commands(_again(found))
    yield Heading("Lineage")
    yield Cells(("what", "value"), _lineage(found))


def _claims(judgements: Sequence[Judgement], folder: Path) -> Iterator[Block]:
    yield Heading("Claims")
    if any(judged.value is not None for judged in judgements):
        caption = (
            "The number of each claim with its 95 % interval over seeds; right of the line the claim holds."
        )
        yield _draw(claims_picture(judgements), folder, "claims", caption)
    rows = [
        [
            f"{judged.claim.id}: {judged.claim.sentence}",
            judged.claim.source or "–",
            judged.verdict.value + (f" ({judged.reason})" if judged.reason else ""),
            judged.number,
            f"{judged.claim.comparison.formula} {judged.asked}",
        ]
        for judged in judgements
    ]
    yield Cells(("claim", "source", "verdict", "number [95 %]", "asked"), rows)
    measures = [
        [judged.claim.id, name, text] for judged in judgements for name, text in judged.claim.measures.items()
    ]
    yield Paragraph("The measures, as the specification writes them:")
    yield Cells(("claim", "measure", "is"), measures)


def _method(record: SweepRecord) -> list[list[str]]:
    spec = record.spec
    rows = [["task", _settings(spec.get("task", {}))], ["models", _settings(spec.get("model", {}))]]
    rows += [["", _settings(block)] for block in spec.get("space", ())]
    for name in ("training", "measurement", "resources", "search"):
        rows.append([name, _settings(spec.get(name, {}))])
    if spec.get("early_stopping"):
        rows.append(["early stopping", _settings(spec["early_stopping"])])
    rows.append(["objectives", "; ".join(f"{o['metric']} ({o['direction']})" for o in spec["objectives"])])
    rows.append(["seeds", ", ".join(map(str, spec.get("seeds", ())))])
    rows.append(["trials", say_counts(count(record))])
    return rows


def _settings(values: Any) -> str:
    """Settings in one line, those that are not set left out."""
    if isinstance(values, dict):
        told = {k: v for k, v in values.items() if v is not None and v != {}}
        return ", ".join(f"{name} {_value(value)}" for name, value in told.items()) or "–"
    return _value(values)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_settings(value)})"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


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
    name = record.name if record.name in studies() else _SPECIFICATION
    commands = [f"recallfront run {name}", f"recallfront report {record.name} --out FOLDER"]
    return commands + [command for _, command in next_commands(found.front, record.sweep_key[:12])]


def _lineage(found: _Findings) -> list[list[str]]:
    record, own = found.record, found.lineage.environment
    ended = [trial for trial in record.trials if trial.end_time is not None]
    start = min((trial.start_time for trial in record.trials), default=0.0)
    seconds = max((trial.end_time or 0.0 for trial in ended), default=start) - start
    spent = sum(devices(t) * ((t.end_time or 0.0) - t.start_time) for t in ended)
    libraries = [f"{name} {version}" for name, version in own.libraries.items() if version]
    machine = own.hardware
    commit = (
        "–" if own.git_commit is None else own.git_commit[:12] + (" with changes" if own.git_dirty else "")
    )
    return [
        ["sweep", record.sweep_key],
        ["code version", own.code_version],
        ["commit", commit],
        ["data digest", found.lineage.data_digest or "–"],
        ["recallfront, Python", f"{own.recallfront}, {own.python}"],
        ["libraries", ", ".join(libraries)],
        ["packages digest", own.packages_digest],
        ["machine", ", ".join([machine.cpu, f"{machine.cores} cores", *machine.gpus])],
        ["started", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start))],
        ["time from first to last trial", duration(seconds)],
        ["time on devices", duration(spent)],
    ]


def _specification(record: SweepRecord) -> str:
    """The sweep's specification, with all defaults written out, as a file that `recallfront run` reads."""
    return yaml.safe_dump(json.loads(json.dumps(record.spec)), sort_keys=False, allow_unicode=True, width=110)


def _draw(figure: "Figure", folder: Path, name: str, caption: str) -> Picture:
    """Write a figure as SVG and PNG, the same bytes for the same findings."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "recallfront"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    _write_png(figure, folder / f"{name}.png")
    return Picture(name, svg, caption)


def _write_png(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG; flat colours and their edges need no more than a palette, at a third of the bytes."""
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    Image.open(full).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
