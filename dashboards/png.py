"""The front as a still picture, by Matplotlib: Plotly's own export wants a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recallfront.dashboards.appearance import (
    FAINT,
    INK,
    LINE,
    Axis,
    axes_of,
    by_architecture,
    mark_of,
    point_of,
    short_label,
    short_number,
    spread_list,
    staircase,
    summary,
)
from recallfront.platform.candidates import Candidate
from recallfront.platform.fronts import Front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

SIZE = (9.0, 6.0)  # inches
DPI = 160
# where a label may stand around its point, in typographic points: the nearest first, right before left
_SIDES = ((1, 0.45), (0.3, 1.1), (1, -0.45), (0.3, -1.1), (-1, 0.45), (-0.3, 1.1), (-1, -0.45), (-0.3, -1.1))
_OFFSETS = [(x * distance, y * distance) for distance in (9, 16, 26, 40) for x, y in _SIDES]


def draw_front(front: Front, path: Path) -> None:
    """Draw the picture of `figures.front_figure`, with the front's members labelled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    across, up = axes_of(front)
    _style(axes, across, up)
    xs, ys = staircase(front, across, up)
    if xs:
        axes.plot(xs, ys, color=LINE, linewidth=1.2, linestyle=(0, (1.5, 2)), zorder=1)
        axes.fill_between(xs, ys, up.worst, color=LINE, alpha=0.05, linewidth=0, zorder=0)
    for architecture, candidates in by_architecture(front).items():
        _draw(axes, front, architecture, candidates)
    if front.knee:
        x, y = point_of(front, front.knee)
        axes.plot(x, y, "o", markersize=19, markerfacecolor="none", markeredgecolor=LINE, markeredgewidth=1.5)
    if front.candidates:
        figure.legend(
            loc="outside upper center", ncols=7, frameon=False, handletextpad=0.1, columnspacing=1.4
        )
    else:
        axes.text(0.5, 0.5, "no trial has finished yet", transform=axes.transAxes, ha="center", color=LINE)
    figure.supxlabel(f"{front.sweep}: {summary(front)}", fontsize=8.5, color=LINE, parse_math=False)
    _label(figure, axes, front)
    figure.savefig(path, metadata={"Software": None})


def _style(axes: "Axes", across: Axis, up: Axis) -> None:
    for axis, settings in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_label_text(settings.title, color=INK, fontsize=11)
        if settings.is_log:
            scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
            scale("log")
            axis.set_ticks(settings.ticks, labels=[short_number(value) for value in settings.ticks])
            axis.set_ticks([], minor=True)
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(up.low, up.high)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def _draw(axes: "Axes", front: Front, architecture: str, candidates: list[Candidate]) -> None:
    mark = mark_of(architecture)
    up, across = front.objectives[:2]
    for on_front in (False, True):
        drawn = [c for c in candidates if c.on_front is on_front]
        points = [point_of(front, candidate) for candidate in drawn]
        style: dict[str, Any] = {"color": mark.colour, "linestyle": "none", "elinewidth": 1, "capsize": 2}
        if on_front:
            style |= {"marker": mark.marker, "markersize": 9, "markeredgecolor": "white", "zorder": 3}
        else:
            style |= {"marker": mark.marker, "markersize": 6.5, "markerfacecolor": "white", "zorder": 2}
        axes.errorbar(
            [x for x, _ in points],
            [y for _, y in points],
            xerr=spread_list(drawn, across.reading),
            yerr=spread_list(drawn, up.reading),
            **style,
        )
    axes.plot([], [], mark.marker, color=mark.colour, markersize=8, label=_plain(architecture))


def _label(figure: "Figure", axes: "Axes", front: Front) -> None:
    """Name the candidates, the front's first; a label covers no point and no other label, or is left out."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the axes stay where they are
    taken = [box for candidate in front.candidates for box in _mark_boxes(axes, front, candidate)]
    first = sorted(front.candidates, key=lambda c: (c is not front.knee, not c.on_front, -c.contribution))
    for candidate in first:
        text = short_label(candidate) + (" (knee)" if candidate is front.knee else "")
        note = axes.annotate(
            _plain(text),
            point_of(front, candidate),
            xytext=(0, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8.5 if candidate.on_front else 7.5,
            color=INK if candidate.on_front else LINE,
        )
        if not _place(note, taken, axes.get_window_extent()):
            note.remove()


def _place(note: "Annotation", taken: list["Bbox"], inside: "Bbox") -> bool:
    """Move a label to the first free place around its point and take that; False where there is none."""
    for dx, dy in _OFFSETS:
        note.set_position((dx, dy))
        note.set_horizontalalignment("left" if dx > 0 else "right")
        box = note.get_window_extent().padded(1.5)
        fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if fits and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return True
    return False


def _mark_boxes(axes: "Axes", front: Front, candidate: Candidate) -> Iterator["Bbox"]:
    """The boxes, in pixels, that a candidate's marker and its two error bars fill."""
    from matplotlib.transforms import Bbox

    point, half = point_of(front, candidate), 22 if candidate is front.knee else 12
    x, y = axes.transData.transform(point)
    yield Bbox.from_extents(x - half, y - half, x + half, y + half)
    readings = [objective.reading for objective in (front.objectives[1], front.objectives[0])]
    for side in (0, 1):
        ends = [list(point), list(point)]
        ends[0][side] -= candidate.spreads.get(readings[side], 0.0)
        ends[1][side] += candidate.spreads.get(readings[side], 0.0)
        yield Bbox(axes.transData.transform(ends)).padded(3)


def _plain(text: str) -> str:
    """Text that Matplotlib does not take for mathematics, nor hides from a legend."""
    return text.replace("$", r"\$").lstrip("_")
