"""What the reports of a sweep and of a suite have in common: claims, settings and lineage as blocks, and pictures.

Matplotlib is imported where it is first used, so that the command starts fast.
"""

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from recallfront.platform.errors import UsageError
from recallfront.platform.front.claims import Judgement
from recallfront.platform.front.history import devices
from recallfront.platform.front.pictures.curves import REPORT_DPI, claims_picture
from recallfront.platform.front.pictures.document import (
    Cells,
    DocumentBlock,
    Heading,
    Paragraph,
    Picture,
    as_html,
    as_markdown,
)
from recallfront.platform.lineage.environment import TrialLineage
from recallfront.platform.metrics import duration
from recallfront.platform.results.labels import trial_label, varying_knobs
from recallfront.platform.results.records import SweepRecord, TrialRecord
from recallfront.sweeps.load import load_study, studies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPECIFICATION: Final = "specification.yaml"
_COLOURS: Final = 256


def written(
    blocks: Callable[[Path], Iterable[DocumentBlock]], folder: Path, specification: str
) -> dict[str, Path]:
    """Write a report, whose blocks draw their pictures into the folder, and its specification -> kind: path.

    Raises:
        UsageError: the folder cannot be written.
    """
    names = {"markdown": "report.md", "html": "report.html", "specification": SPECIFICATION}
    paths = {kind: folder / name for kind, name in names.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = list(blocks(folder))
        paths["markdown"].write_text(as_markdown(found), encoding="utf-8")
        paths["html"].write_text(as_html(found), encoding="utf-8")
        paths["specification"].write_text(specification, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written: {error.strerror}") from None
    return paths


def to_run(name: str, key: str) -> str:
    """What `recallfront run` is told to run the sweep or suite of this key again: the study of its name if that is
    still the same, else the specification beside the report.
    """
    return name if name in studies() and load_study(name).key == key else SPECIFICATION


def claims_blocks(
    judgements: Sequence[Judgement], folder: Path, *, title: str = "Claims", name: str = "claims"
) -> Iterator[DocumentBlock]:
    """The verdicts as a picture of that name and a table, and how the claims are measured."""
    yield Heading(title)
    if any(judged.value is not None for judged in judgements):
        caption = (
            "The number of each claim with its 95 % interval over seeds; right of the line the claim holds."
        )
        yield draw(claims_picture(judgements), folder, name, caption)
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


def reruns_blocks(trials: Iterable[TrialRecord], reruns: Sequence[TrialRecord]) -> Iterator[DocumentBlock]:
    """The reruns of some trials with their verdicts; nothing if there are none."""
    if not reruns:
        return
    own = {trial.run_id: trial for trial in trials}
    varying = varying_knobs(own.values())
    rows = [
        [
            trial_label(own[again.tags["rerun_of"]], varying),
            again.tags["rerun_of"],
            again.tags.get("verdict", "–"),
            again.tags.get("reason") or "–",
            again.tags.get("differences") or "–",
        ]
        for again in reruns
    ]
    yield Heading("Reruns")
    yield Cells(("trial", "run", "verdict of the rerun", "reason", "differs"), rows)


def settings(values: Any) -> str:
    """Settings in one line, those that are not set left out."""
    if isinstance(values, dict):
        told = {k: v for k, v in values.items() if v is not None and v != {}}
        return ", ".join(f"{name} {_value(value)}" for name, value in told.items()) or "–"
    return _value(values)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({settings(value)})"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def lineage_rows(record: SweepRecord, lineage: TrialLineage) -> list[list[str]]:
    """Code, data, libraries and machine of a sweep, and how long it took."""
    own = lineage.environment
    ended = [trial for trial in record.trials if trial.end_time is not None]
    start = min((trial.start_time for trial in record.trials), default=0.0)
    seconds = max((trial.end_time or 0.0 for trial in ended), default=start) - start
    spent = sum(devices(t) * t.seconds for t in ended)
    libraries = [f"{name} {version}" for name, version in own.libraries.items() if version]
    machine = own.hardware
    added = [
        f"{plugin}, artifact lineage/plugins/{plugin.name}.py" if plugin.version is None else str(plugin)
        for plugin in own.plugins
    ]
    return [
        ["sweep", record.sweep_key],
        ["code version", own.code_version],
        *([["plug-ins", "; ".join(added)]] if added else []),
        ["commit", own.commit or "–"],
        ["data digest", lineage.data_digest or "–"],
        ["recallfront, Python", f"{own.recallfront}, {own.python}"],
        ["libraries", ", ".join(libraries)],
        ["packages digest", own.packages_digest],
        ["machine", ", ".join([machine.cpu, f"{machine.cores} cores", *machine.gpus])],
        ["started", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start))],
        ["time from first to last trial", duration(seconds)],
        ["time on devices", duration(spent)],
    ]


def draw(figure: "Figure", folder: Path, name: str, caption: str) -> Picture:
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
    figure.savefig(full, format="png", dpi=REPORT_DPI)
    Image.open(full).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
