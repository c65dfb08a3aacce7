"""A front as text: comma-separated values, and a table for the terminal."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
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
_ANY_WIDTH: Final = 10_000  # characters: how wide a table would be


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


class FrontTable:
    """The candidates, slowest first, each with its place on or off the front, as wide as the terminal allows.

    A spread goes below its value where a line is too short for both, and a candidate's figures below its name where
    columns are no use at all.
    """

    def __init__(self, front: Front, *, members_only: bool = False) -> None:
        self._front = front
        self._candidates = front.members if members_only else front.candidates

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for joint in (" ", "\n"):
            table = self._table(joint)
            if Measurement.get(console, options.update_width(_ANY_WIDTH), table).minimum <= options.max_width:
                yield table
                return
        yield from self._lines()

    def _table(self, joint: str) -> Table:
        front, metrics = self._front, columns_of(self._front.objectives)
        title, caption = Text(front.sweep), Text(_caption(front))
        table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("front", no_wrap=True, min_width=_widest(map(self._mark, self._candidates)))
        table.add_column("configuration", min_width=16, overflow="fold")
        columns = {
            heading.replace(" ", "\n", 1): [
                c.describe(name).replace(" ±", f"{joint}±") for c in self._candidates
            ]
            for name, heading in metrics.items()
        }
        columns["seeds"] = [str(candidate.n_seeds) for candidate in self._candidates]
        for heading, cells in columns.items():
            # Rich would cut what it may not wrap, once it has no other way to make a table narrower
            table.add_column(
                Text(heading), justify="right", no_wrap=True, min_width=_widest([heading, *cells])
            )
        for number, candidate in enumerate(self._candidates):
            name = "\n".join([candidate.label, *(f"  {doubt}" for doubt in candidate.doubts)])
            cells = [self._mark(candidate), name, *(own[number] for own in columns.values())]
            table.add_row(*map(Text, cells), style=_style(candidate))
        return table

    def _mark(self, candidate: Candidate) -> str:
        mark = PLACE_MARKS[candidate.on_front, candidate.certain]
        return f"{mark} knee" if candidate is self._front.knee else mark

    def _lines(self) -> Iterator[Text]:
        columns = columns_of(self._front.objectives)
        yield Text(self._front.sweep, justify="center")
        for candidate in self._candidates:
            named = " ".join(filter(None, [self._mark(candidate), candidate.label]))
            figures = [f"{heading} {candidate.describe(metric)}" for metric, heading in columns.items()]
            told = " · ".join([*figures, f"seeds {candidate.n_seeds}"])
            yield Text("\n  ".join([named, told, *candidate.doubts]), style=_style(candidate))
        yield Text(_caption(self._front))


def _widest(cells: Iterable[str]) -> int:
    return max((cell_len(line) for cell in cells for line in cell.splitlines()), default=0)


def _style(candidate: Candidate) -> str:
    return "" if candidate.on_front else "dim"


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
