"""A front as text: comma-separated values, and a table for the terminal."""

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from recallfront.platform.errors import printable
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.claims import Judgement
from recallfront.platform.front.compare import SweepComparison, described, headings
from recallfront.platform.front.front import Front
from recallfront.platform.metrics import columns_of, show, title_of_objective
from recallfront.platform.results.labels import show_knob

PLACE_MARKS = {(True, True): "●", (True, False): "◐", (False, False): "○", (False, True): ""}


def as_csv(front: Front) -> str:
    """One line a candidate, in the order of the front's candidates."""
    metrics = list(dict.fromkeys(name for candidate in front.candidates for name in candidate.metrics))
    spreads = [name for name in metrics if any(name in c.spreads for c in front.candidates)]
    knob_names = front.knob_names
    place = ["on_front", "certain", "knee", "contribution", "architecture"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spread_names = [f"{name}_spread" for name in spreads]
    writer.writerow([*place, *knob_names, *metrics, *spread_names, "n_seeds", "doubts", "run_ids"])
    for c in front.candidates:
        own = [c.on_front, c.certain, c is front.knee, c.contribution, c.architecture]
        knobs = [show_knob(c.knobs[name]) if name in c.knobs else "" for name in knob_names]
        values = [*(c.metrics.get(n, "") for n in metrics), *(c.spreads.get(n, "") for n in spreads)]
        writer.writerow([*own, *knobs, *values, c.n_seeds, "; ".join(c.doubts), " ".join(c.run_ids)])
    return text.getvalue()


def as_table(front: Front, *, members_only: bool = False) -> Table:
    """The candidates, slowest first, each with its place on or off the front."""
    title, caption = Text(front.sweep), Text(_caption(front))
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("front", no_wrap=True)
    table.add_column("configuration", min_width=16)
    columns = columns_of(front.objectives)
    for name in (*columns.values(), "seeds"):
        table.add_column(Text(name.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    for candidate in front.members if members_only else front.candidates:
        name = "\n".join([candidate.label, *(f"  {doubt}" for doubt in candidate.doubts)])
        cells = [name, *map(candidate.describe, columns), str(candidate.n_seeds)]
        style = "" if candidate.on_front else "dim"
        table.add_row(Text(_mark(front, candidate)), *map(Text, cells), style=style)
    return table


def claims_table(judgements: Sequence[Judgement]) -> Table:
    """One line a claim: its verdict, the number with its 95 % interval, and what it is compared with."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("claim", "verdict", "number [95 %]", "asked"):
        table.add_column(name, no_wrap=name != "claim")
    for judged in judgements:
        lines = [judged.claim.sentence, *([f"  {judged.reason}"] if judged.reason else [])]
        name = "\n".join([judged.claim.id, *lines])
        cells = (printable(name), judged.verdict.value, judged.number, judged.asked)
        table.add_row(*map(Text, cells))
    return table


def _mark(front: Front, candidate: Candidate) -> str:
    mark = PLACE_MARKS[candidate.on_front, candidate.certain]
    return f"{mark} knee" if candidate is front.knee else mark


def _caption(front: Front) -> str:
    against = ", ".join(f"{title_of_objective(o)} {o.reference:g}" for o in front.objectives)
    lines = [
        f"{len(front.members)} of {len(front.candidates)} configurations are on the front; "
        f"hypervolume {show('hypervolume', front.hypervolume)} against {against}.",
        "Within the spreads: ● surely on the front   ◐ on it, perhaps not   ○ off it, perhaps on it",
    ]
    if any(candidate.doubts for candidate in front.candidates):
        lines.append(
            "No place is sure with seeds missing, or a throughput that varied more than measurement.target_spread or "
            "was measured beside other work."
        )
    if front.left_out:
        lines.append(f"{len(front.left_out)} finished runs lack an objective's value and are left out.")
    return "\n".join(lines)


def comparison_table(found: SweepComparison, *, every: bool = False) -> Table:
    """The configurations on either front, or all of them: their values in both sweeps, and how they moved."""
    objectives = found.before.objectives
    names = [f"{front.sweep} ({front.sweep_key[:8]})" for front in (found.before, found.after)]
    title = Text(" -> ".join(names))
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("front", no_wrap=True)
    table.add_column("configuration", min_width=16)
    for name in headings(objectives):
        table.add_column(Text(f"{name}\nbefore -> after"), justify="right")
    table.add_column("moved", no_wrap=True)
    for row in found.rows:
        if every or row.place != "neither":
            values = [f"{first} -> {second}" for first, second in described(row, objectives)]
            style = "dim" if row.place == "neither" else ""
            table.add_row(*map(Text, (row.place, row.label, *values, row.move)), style=style)
    return table
