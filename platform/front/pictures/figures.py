"""Figures of a sweep: its front, and how its hypervolume grew. Interactive ones are Plotly's.

Plotly is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.platform.errors import UsageError
from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front
from recallfront.platform.front.history import HistoryRow
from recallfront.platform.front.pictures.appearance import (
    INK,
    LINE,
    Axis,
    axes_of,
    by_architecture,
    error_bars,
    mark_of,
    point_of,
    short_number,
    staircase,
    summary,
)
from recallfront.platform.front.pictures.png import draw_front
from recallfront.platform.front.tables import as_csv
from recallfront.platform.metrics import details_of, metric
from recallfront.platform.results.labels import show_knob

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"
_MOST_STEPS = 500  # trials of which each has a mark in the history
GRID, RING = "rgba(123, 135, 148, 0.28)", "#7b8794"  # seen on light and on dark pages
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}


def write_front(front: Front, directory: Path | str) -> dict[str, Path]:
    """Write `front.html` (self-contained), `front.png`, `front.csv` and `front.json` -> kind: path."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"front.{kind}" for kind in ("html", "png", "csv", "json")}
    paths["html"].write_text(front_html(front), encoding="utf-8")
    draw_front(front, paths["png"])
    paths["csv"].write_text(as_csv(front), encoding="utf-8")
    paths["json"].write_text(front.to_json(), encoding="utf-8")
    return paths


def check_plot(path: Path | str) -> None:
    """Raise UsageError unless `write_plot` can write a file of this name."""
    if Path(path).suffix not in (".html", ".png"):
        raise UsageError(f"plot {str(path)!r}: write FILE.html or FILE.png")


def write_plot(front: Front, path: Path | str) -> None:
    """Write the front's picture alone, as `FILE.html` or `FILE.png`.

    Raises:
        UsageError: when the file's name ends in neither, or it cannot be written.
    """
    check_plot(path)
    target = Path(path)
    try:
        if target.suffix == ".html":
            target.write_text(front_html(front), encoding="utf-8")
        else:
            draw_front(front, target)
    except OSError as error:
        raise UsageError(f"plot {str(path)!r} cannot be written: {error.strerror}") from None


def front_html(front: Front) -> str:
    """The front as one HTML document that needs nothing else, neither a network nor a server."""
    figure = front_figure(front)
    plot = figure.to_html(full_html=False, include_plotlyjs=True, config=CONFIG)
    name = escape(front.sweep)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{name}: front</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>body {{ margin: 1.5rem auto; max-width: 1100px; padding: 0 1rem; color: {INK}; "
        f"background: #fff; font: 16px/1.5 {FONT} }} h1 {{ font-size: 1.3rem; margin: 0 }} "
        f"p {{ color: {LINE}; margin: .3rem 0 0 }}</style></head>\n"
        f"<body><h1>{name}</h1>{plot}<p>{escape(summary(front))}</p></body></html>\n"
    )


def front_figure(front: Front) -> "Figure":
    """Recall against throughput: a trace an architecture, the front as a staircase, its knee ringed."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    across, up = axes_of(front)
    xs, ys = staircase(front, across, up)
    if xs:
        line = {"color": RING, "width": 1.5, "dash": "dot"}
        figure.add_trace(Scatter(x=xs, y=ys, mode="lines", line=line, name="front", hoverinfo="skip"))
    if front.knee:
        figure.add_trace(_ring(front, front.knee))
    for architecture, candidates in by_architecture(front).items():
        figure.add_trace(_trace(front, architecture, candidates))
    legend = {"orientation": "h", "x": 0, "y": -0.19, "yanchor": "top"}
    figure.update_layout(
        layout_of("front"), xaxis=axis_settings(across), yaxis=axis_settings(up), legend=legend
    )
    if front.candidates and metric(up.objective.reading).most == 1.0:
        figure.update_layout(updatemenus=[_MENU | {"buttons": _recall_scales(figure, up)}])
    if not front.candidates:
        middle = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
        figure.add_annotation(text="no finished trial", **middle)
    return figure


def _recall_scales(figure: "Figure", up: Axis) -> list[dict[str, Any]]:
    """Buttons that draw recall as it is, or the errors, 1 - recall, on a logarithmic axis that points down.

    Recall from 0.98 to 1 is one line on the first. What makes no error has no logarithm: it is drawn below the least
    error that another makes.
    """
    errors = [1 - y for trace in figure.data for y in trace.y if y < 1]
    least = min(errors, default=1e-3) / 2

    def error(recall: float) -> float:
        return max(1 - recall, least)

    plain: dict[str, list[Any]] = {"y": [], "error_y.array": [], "error_y.arrayminus": []}
    logs: dict[str, list[Any]] = {"y": [], "error_y.array": [], "error_y.arrayminus": []}
    for trace in figure.data:
        bars = zip(trace.y, trace.error_y.arrayminus or (), trace.error_y.array or (), strict=False)
        # upwards is to more errors: as far as recall reaches down
        reach = [(error(y - under) - error(y), error(y) - error(y + above)) for y, under, above in bars]
        plain["y"].append(trace.y)
        plain["error_y.array"].append(trace.error_y.array)
        plain["error_y.arrayminus"].append(trace.error_y.arrayminus)
        logs["y"].append([error(y) for y in trace.y])
        logs["error_y.array"].append([up for up, _ in reach] or None)
        logs["error_y.arrayminus"].append([down for _, down in reach] or None)
    straight = {"yaxis.type": "linear", "yaxis.range": [up.low, up.high], "yaxis.title.text": up.title}
    turned = {
        "yaxis.type": "log",
        "yaxis.range": [log10(max(error(up.low), 4 * least)), log10(least / 1.5)],
        "yaxis.title.text": f"1 - {up.title}, log scale",
    }
    return [
        {"label": "recall", "method": "update", "args": [plain, straight]},
        {"label": "log(1 - recall)", "method": "update", "args": [logs, turned]},
    ]


def history_figure(rows: Sequence[HistoryRow]) -> "Figure":
    """Hypervolume by finished trials, by hours, by device-hours and by training steps; buttons choose which."""
    from plotly.graph_objects import Figure, Scatter

    if len(rows) > _MOST_STEPS:
        # between them the line is flat
        steps = [row for before, row in pairwise(rows) if row.hypervolume != before.hypervolume]
        rows = [rows[0], *steps, rows[-1]]
    told = [(row.trials, row.hours, row.device_hours, row.steps) for row in rows]
    columns = zip(*told, strict=True) if told else ((), (), (), ())
    figure = Figure(
        Scatter(
            x=[row.trials for row in rows],
            y=[row.hypervolume for row in rows],
            customdata=told,
            mode="lines+markers",
            line={"shape": "hv", "color": mark_of("attention").colour, "width": 2},
            marker={"size": 5},
            hovertemplate="hypervolume %{y:,.4g}<br>after %{customdata[0]} trials, %{customdata[1]:.2f} "
            "hours, %{customdata[2]:.2f} device-hours, %{customdata[3]:,} steps<extra></extra>",
        )
    )
    buttons = [
        {"label": name, "method": "update", "args": [{"x": [values]}, {"xaxis.title.text": _SCALES[name]}]}
        for name, values in zip(_SCALES, columns, strict=True)
    ]
    axis = {"gridcolor": GRID, "zeroline": False, "rangemode": "tozero", "tickcolor": GRID}
    figure.update_layout(
        layout_of("history"),
        xaxis=axis | {"title": {"text": _SCALES["trials"], "standoff": 10}, "automargin": True},
        yaxis=axis | {"title": {"text": "hypervolume", "standoff": 12}, "automargin": True},
        updatemenus=[_MENU | {"buttons": buttons}],
        showlegend=False,
    )
    return figure


_MENU: dict[str, Any] = {
    "type": "buttons",
    "direction": "right",
    "x": 0,
    "y": 1.02,
    "xanchor": "left",
    "yanchor": "bottom",
    "font": {"size": 12},
}
_SCALES = {
    "trials": "finished trials",
    "hours": "hours since the first trial started",
    "device-hours": "device-hours spent on all trials",
    "training steps": "training steps of all trials",
}


def layout_of(name: str) -> dict[str, Any]:
    return {
        "template": "none",
        "font": {"family": FONT, "size": 14, "color": INK},
        "height": 520,
        "margin": {"l": 70, "r": 24, "t": 48, "b": 64},
        "hoverlabel": {"align": "left", "font": {"family": FONT}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": RING, "activecolor": mark_of("attention").colour},
        "uirevision": name,  # what a person has zoomed into or hidden outlasts a refresh of the page
    }


def _trace(front: Front, architecture: str, candidates: list[Candidate]) -> "Scatter":
    from plotly.graph_objects import Scatter

    mark = mark_of(architecture)
    up, across = front.objectives[:2]
    candidates = sorted(candidates, key=lambda c: not c.on_front)  # the legend shows the first one's symbol
    points = [point_of(front, candidate) for candidate in candidates]
    bars = {"color": mark.colour, "thickness": 1.2, "width": 3}
    return Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        error_x=error_settings(candidates, across.reading) | bars,
        error_y=error_settings(candidates, up.reading) | bars,
        mode="markers",
        marker={
            # off the front: the outline alone
            "symbol": [mark.symbol + ("" if c.on_front else "-open") for c in candidates],
            "size": [13 if c.on_front else 9 for c in candidates],
            "color": mark.colour,
            "opacity": 1,
            "line": {"width": 1.6, "color": ["#ffffff" if c.on_front else mark.colour for c in candidates]},
        },
        name=escape(architecture),
        customdata=[list(c.run_ids) for c in candidates],
        hovertext=[_hover(front, candidate) for candidate in candidates],
        hoverinfo="text",
    )


def error_settings(candidates: list[Candidate], reading: str) -> dict[str, Any]:
    below, above = error_bars(candidates, reading)
    return {"symmetric": False, "array": above, "arrayminus": below}


def _ring(front: Front, knee: Candidate) -> "Scatter":
    from plotly.graph_objects import Scatter

    x, y = point_of(front, knee)
    ring = {"symbol": "circle-open", "size": 25, "color": RING, "line": {"width": 2}}
    label = {"text": ["knee"], "textposition": "top right", "mode": "markers+text", "cliponaxis": False}
    return Scatter(x=[x], y=[y], marker=ring, name="knee", hoverinfo="skip", showlegend=False, **label)


def _hover(front: Front, candidate: Candidate) -> str:
    """Details of a candidate: knobs, objectives, state, place and runs. Plotly reads it as HTML."""
    knobs = [f"{name} = {show_knob(value)}" for name, value in candidate.knobs.items()]
    details = details_of(front.objectives).items()
    told = [f"{title}: {candidate.describe(m)}" for m, title in details if m in candidate.metrics]
    place = "on the front" if candidate.on_front else "off the front"
    if not candidate.certain:
        place += ", uncertain within the spreads"
    told += candidate.doubts
    seeds = f"{candidate.n_seeds} seed{'s' if candidate.n_seeds > 1 else ''}, best run {candidate.run_ids[0]}"
    lines = [*knobs, *told, place, seeds]
    return f"<b>{escape(candidate.architecture)}</b><br>" + "<br>".join(map(escape, lines))


def axis_settings(axis: Axis) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 10},
        "automargin": True,
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GRID,
        "range": [axis.low, axis.high],
    }
    if axis.is_log:
        settings |= {
            "type": "log",
            "range": [log10(axis.low), log10(axis.high)],
            "tickvals": axis.ticks,
            "ticktext": [short_number(value) for value in axis.ticks],
        }
    return settings
