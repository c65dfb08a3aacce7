"""The page of two or more sweeps on one picture, each against one of them: the oldest, or the reader's choice.

FastAPI, anyio and Plotly are imported where they are first used, so that reading this file costs little.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from recallfront.dashboards.computed import Computed, results_of
from recallfront.dashboards.reading import explorer_of, own_address
from recallfront.dashboards.rendering import page
from recallfront.dashboards.sweeps_page import Listing, SweepLine, listed, read_lines, read_listing
from recallfront.dashboards.views import SweepView
from recallfront.platform.errors import UsageError
from recallfront.platform.front.compare import SweepComparison, compare, described, headings
from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import MARKS, axes_of, drawn, mark_of, point_of, staircase
from recallfront.platform.front.pictures.figures import axis_settings, error_settings, layout_of
from recallfront.platform.results.records import SweepRecord

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from fastapi import APIRouter

MOST_SWEEPS = 6
_comparisons = Computed[SweepComparison](16)
_MOST_BARS = 300  # marks of a sweep beyond which spreads are not drawn
# no two blues side by side: most often two sweeps are compared
_COLOURS = [MARKS[name].colour for name in ("attention", "based", "griffin", "hawk", "grouped", "window")]


def add_compare_page(router: "APIRouter", prefix: str, limiter: "CapacityLimiter") -> None:
    """Add the page to a router; it is made in one of the limiter's threads."""
    from anyio.to_thread import run_sync
    from fastapi import Request
    from fastapi.responses import Response

    @router.get("/compare")
    async def compared(request: Request) -> Response:
        given = request.query_params
        asked = list(dict.fromkeys(given.getlist("sweep")))
        if len(asked) > MOST_SWEEPS:
            raise UsageError(
                f"{len(asked)} sweeps are too many for one picture: choose at most {MOST_SWEEPS}"
            )

        def work() -> Response:
            own = own_address(request)
            # the buttons of the list send its page, the one that compares does not
            if len(asked) < 2 or "page" in given:
                shown = _chooser(read_lines(own), asked, read_listing(given))
            else:
                shown = _comparison(own, asked, given.get("with", ""))
            return page(request, "compare.html", prefix, **shown)

        return await run_sync(work, limiter=limiter)


def _chooser(lines: list[SweepLine], asked: list[str], listing: Listing) -> dict[str, Any]:
    """The list of sweeps to choose from, a page of those that match, below those that are chosen already."""
    chosen = [line for line in lines if line.run_id in asked]
    others = [line for line in lines if line.run_id not in asked]
    return {"chooser": True, "chosen": chosen, "most": MOST_SWEEPS} | listed(others, listing)


def _comparison(uri: str, asked: list[str], baseline: str) -> dict[str, Any]:
    views = _ordered([explorer_of(uri, run_id, 0.0).view for run_id in asked], baseline)
    names = _names(views)
    others = list(zip(names, views, strict=True))[1:]
    found = [(name, compared_with(views[0].record, view.record)) for name, view in others]
    return {
        "chooser": False,
        "views": views,
        "first": names[0],
        "comparisons": [{"name": name, "found": one, "rows": _rows(one)} for name, one in found],
        "headings": headings(views[0].front.objectives),
        "figures": {"compare": json.loads(_figure(views))},
    }


def compared_with(before: SweepRecord, after: SweepRecord) -> SweepComparison:
    """The second sweep against the first, computed once: of three objectives it takes seconds."""
    return _comparisons.of((results_of(before), results_of(after)), lambda: compare(before, after))


def _ordered(views: Iterable[SweepView], baseline: str) -> list[SweepView]:
    """The one that the others are compared with first: the one that was asked for, or the oldest."""
    oldest_first = sorted(views, key=lambda view: view.started or math.inf)
    return sorted(oldest_first, key=lambda view: view.record.run_id != baseline)


def _names(views: Sequence[SweepView]) -> list[str]:
    """What tells the sweeps apart: their studies, and their keys where a study is there twice."""
    counts = Counter(view.record.name for view in views)
    return [
        view.record.name + (f" {view.record.sweep_key[:8]}" if counts[view.record.name] > 1 else "")
        for view in views
    ]


def _rows(found: SweepComparison) -> list[dict[str, Any]]:
    objectives = found.before.objectives
    return [
        {"row": row, "values": described(row, objectives)} for row in found.rows if row.place != "neither"
    ]


def _figure(views: list[SweepView]) -> str:
    """The fronts on one picture: a colour a sweep, an architecture's own symbol."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    fronts = [view.front for view in views]
    candidates = tuple(c for front in fronts for c in front.candidates)
    across, up = axes_of(Front("", "", "", fronts[0].objectives, candidates=candidates))
    for number, front in enumerate(fronts):
        colour, group = _COLOURS[number % len(_COLOURS)], str(number)
        xs, ys = staircase(front, across, up)
        line = {"color": colour, "width": 1.6, "dash": "dot"}
        figure.add_trace(
            Scatter(
                x=xs, y=ys, mode="lines", line=line, legendgroup=group, showlegend=False, hoverinfo="skip"
            )
        )
        shown = drawn(front)
        points = [point_of(front, c) for c in shown]
        bars = {"color": colour, "thickness": 1, "width": 3}
        symbols = [mark_of(c.architecture).symbol + ("" if c.on_front else "-open") for c in shown]
        spreads = shown if len(shown) <= _MOST_BARS else []
        figure.add_trace(
            Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                error_x=error_settings(spreads, across.objective.reading) | bars,
                error_y=error_settings(spreads, up.objective.reading) | bars,
                mode="markers",
                name=escape(f"{front.sweep} ({front.sweep_key[:8]})"),
                legendgroup=group,
                marker={"color": colour, "symbol": symbols, "size": 10},
                hovertext=[escape(f"{front.sweep}: {c.label}") for c in shown],
                hoverinfo="text+x+y",
            )
        )
    legend = {"orientation": "h", "x": 0, "y": -0.19, "yanchor": "top"}
    figure.update_layout(
        layout_of("compare"), xaxis=axis_settings(across), yaxis=axis_settings(up), legend=legend
    )
    return str(figure.to_json())
