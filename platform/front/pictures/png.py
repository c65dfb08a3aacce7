"""The front as a still picture, by Matplotlib: Plotly's own export wants a browser.

Matplotlib is imported where it is first used, so that the command starts fast.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import (
    FAINT,
    INK,
    LINE,
    Axis,
    axes_of,
    by_architecture,
    drawn,
    ends_of,
    error_bars,
    mark_of,
    point_of,
    short_label,
    short_number,
    staircase,
    summary,
)

Box = npt.NDArray[np.float64]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

SIZE = (9.0, 6.0)  # inches
DPI = 160
# where a label may stand around its point, in typographic points: to the right, where nothing is beyond the front,
# before to the left, and near before far
_RIGHT = ((1, 0.45), (0.3, 1.1), (1, -0.45), (0.3, -1.1))
_OFFSETS = [(side * x * far, y * far) for side in (1, -1) for far in (9, 16, 26, 40, 60) for x, y in _RIGHT]
_MOST_LABELS = 60
_SHORTENED = 10_000  # from here on the ticks of an axis are written as 20k
_LINE_LETTERS = 140  # that fit the width below a picture
_FAR = 24.0  # typographic points from which a line leads from a point to its label


def draw_front(front: Front, path: Path) -> None:
    """Write the front's picture as a PNG file."""
    picture(front).savefig(path, metadata={"Software": None})


def picture(front: Front) -> "Figure":
    """The picture of `figures.front_figure`, as a still picture, with the configurations labelled."""
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
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=LINE)
    told = fill(f"{front.sweep}: {summary(front)}", _LINE_LETTERS)
    figure.supxlabel(told, fontsize=8.5, color=LINE, parse_math=False)
    _label(figure, axes, front)
    return figure


def _style(axes: "Axes", across: Axis, up: Axis) -> None:
    for axis, settings in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_label_text(settings.title, color=INK, fontsize=11)
        if settings.is_log:
            scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
            scale("log")
            axis.set_ticks(settings.ticks, labels=[short_number(value) for value in settings.ticks])
            axis.set_ticks([], minor=True)
        elif settings.high >= _SHORTENED:
            axis.set_major_formatter(lambda value, _: short_number(value))
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
        own = [c for c in candidates if c.on_front is on_front]
        points = [point_of(front, candidate) for candidate in own]
        style: dict[str, Any] = {"color": mark.colour, "linestyle": "none", "elinewidth": 1, "capsize": 2}
        if on_front:
            style |= {"marker": mark.marker, "markersize": 9, "markeredgecolor": "white", "zorder": 3}
        else:
            style |= {"marker": mark.marker, "markersize": 6.5, "markerfacecolor": "white", "zorder": 2}
        axes.errorbar(
            [x for x, _ in points],
            [y for _, y in points],
            xerr=error_bars(own, across.reading),
            yerr=error_bars(own, up.reading),
            **style,
        )
    axes.plot(
        [],
        [],
        linestyle="none",
        marker=mark.marker,
        color=mark.colour,
        markersize=8,
        label=_plain(architecture),
    )


def _label(figure: "Figure", axes: "Axes", front: Front) -> None:
    """Name the candidates, the front's first; a label covers no point and no other label, or is left out."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the axes stay where they are
    candidates = drawn(front)
    taken = [box for candidate in candidates for box in _mark_boxes(axes, front, candidate)]
    taken += _stair_boxes(axes, front)
    first = sorted(candidates, key=lambda c: (c is not front.knee, not c.on_front, -c.contribution))
    for candidate in first[:_MOST_LABELS]:
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
        if not _place(axes, note, taken, figure.dpi / 72):
            note.remove()


def _place(axes: "Axes", note: "Annotation", taken: list[Box], scale: float) -> bool:
    """Move a label to the first free place around its point and take that; False where there is none.

    Boxes are (left, bottom, right, top) in pixels; `scale` is pixels a typographic point.
    """
    left, bottom, right, top = note.get_window_extent().padded(1.5).extents
    others, inside = np.array(taken), np.array(axes.get_window_extent().extents)
    for dx, dy in _OFFSETS:
        shift = np.array([dx * scale - (right - left if dx < 0 else 0), dy * scale])
        box = np.array([left, bottom, right, top]) + np.tile(shift, 2)
        fits = (box[:2] >= inside[:2]).all() and (box[2:] <= inside[2:]).all()
        if fits and not ((others[:, :2] < box[2:]) & (box[:2] < others[:, 2:])).all(axis=1).any():
            note.set_position((dx, dy))
            note.set_horizontalalignment("left" if dx > 0 else "right")
            taken.append(box)
            if math.hypot(dx, dy) > _FAR:
                line = {"arrowstyle": "-", "color": LINE, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 6}
                axes.annotate("", note.xy, xytext=(dx, dy), textcoords="offset points", arrowprops=line)
            return True
    return False


def _stair_boxes(axes: "Axes", front: Front) -> list[Box]:
    """The boxes that the steps of the front fill."""
    corners = np.array(staircase(front, *axes_of(front))).T
    if not len(corners):
        return []
    pixels = axes.transData.transform(corners)
    low, high = np.minimum(pixels[:-1], pixels[1:]), np.maximum(pixels[:-1], pixels[1:])
    return list(np.concatenate([low - 1, high + 1], axis=1))


def _mark_boxes(axes: "Axes", front: Front, candidate: Candidate) -> Iterator[Box]:
    """The boxes that a candidate's marker and its two error bars fill."""
    point, half = np.array(point_of(front, candidate)), 22 if candidate is front.knee else 12
    middle = axes.transData.transform(point)
    yield np.concatenate([middle - half, middle + half])
    for side, objective in enumerate((front.objectives[1], front.objectives[0])):
        bar = np.array([point, point])
        bar[:, side] = ends_of(candidate, objective.reading)
        ends = axes.transData.transform(bar)
        yield np.concatenate([ends[0] - 3, ends[1] + 3])


def _plain(text: str) -> str:
    """Text that Matplotlib does not take for mathematics, nor hides from a legend."""
    return text.replace("$", r"\$").lstrip("_")
