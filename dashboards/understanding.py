"""Figures that explain a sweep: what its knobs do, recall by slice, recall against state, and when its trials ran.

Plotly is imported where it is first used, so that reading this file costs little.
"""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.effects import Effect
from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import by_architecture, mark_of, short_label
from recallfront.platform.front.pictures.figures import GRID, RING, layout_of
from recallfront.platform.metrics import metric, show, title_of, title_of_objective, without_repeats
from recallfront.platform.results.labels import show_knob
from recallfront.sweeps.conditions import is_number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_LINES = 60  # configurations of a heat map
MOST_KNOBS = 12


def effects_figure(effects: Sequence[Effect], front: Front) -> "Figure | None":
    """A column a knob, a row an objective: the partial mean of each level with its interval."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    knobs = list(dict.fromkeys(effect.knob for effect in effects if effect.levels))[:MOST_KNOBS]
    metrics = list(dict.fromkeys(effect.metric for effect in effects))
    if not knobs:
        return None
    titles = [escape(knob) for knob in knobs]
    figure = make_subplots(
        rows=len(metrics),
        cols=len(knobs),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=titles,
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
    )
    told: set[str] = set()
    for effect in effects:
        if effect.knob not in knobs or not effect.levels:
            continue
        mark, levels = mark_of(effect.architecture), effect.levels
        bars = [level.ends[1] - level.mean if level.ends else 0.0 for level in levels]
        name = escape(effect.architecture)
        figure.add_trace(
            Scatter(
                x=[escape(level.name) for level in levels],
                y=[level.mean for level in levels],
                error_y={"type": "data", "array": bars, "color": mark.colour, "thickness": 1.2, "width": 3},
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=name not in told,
                line={"color": mark.colour, "width": 1.2, "dash": "dot"},
                marker={"symbol": mark.symbol, "size": 9, "color": mark.colour},
                hovertext=[_told_level(effect, number) for number in range(len(levels))],
                hoverinfo="text",
            ),
            row=metrics.index(effect.metric) + 1,
            col=knobs.index(effect.knob) + 1,
        )
        told.add(name)
    figure.update_xaxes(type="category", gridcolor=GRID, automargin=True)
    for column, knob in enumerate(knobs, start=1):
        own = sorted((level.place, level.name) for e in effects if e.knob == knob for level in e.levels)
        order = list(dict.fromkeys(escape(name) for _, name in own))
        figure.update_xaxes(categoryorder="array", categoryarray=order, col=column)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
    headings = {objective.reading: title_of_objective(objective) for objective in front.objectives}
    for row, name in enumerate(metrics, start=1):
        figure.update_yaxes(title_text=escape(headings.get(name, title_of(name))), row=row, col=1)
    # above the knobs: names of levels may be long, and lie slanted below
    legend = {"orientation": "h", "x": 0, "yref": "container", "y": 1, "yanchor": "top"}
    figure.update_layout(layout("effects", 190 + 240 * len(metrics)), legend=legend)
    return figure.update_layout(margin_t=96)


def _told_level(effect: Effect, number: int) -> str:
    level = effect.levels[number]
    ends = level.ends
    shown = metric(effect.metric).show
    interval = f" (95 %: {shown(ends[0])} to {shown(ends[1])})" if ends else ""
    counted = f"{level.count} configuration{'s' if level.count > 1 else ''}"
    return escape(
        f"{effect.architecture}, {effect.knob} {level.name}: {shown(level.mean)}{interval}, {counted}"
    )


def slices_figure(front: Front) -> "Figure | None":
    """Validation recall by slice: a row a configuration, the front first."""
    from plotly.graph_objects import Figure, Heatmap

    candidates = sorted(front.candidates, key=lambda c: not c.on_front)[:MOST_LINES]
    told = without_repeats({n for c in candidates for n in c.metrics if _is_slice(n)})
    names = sorted(told, key=_by_number)
    if len(names) < 2:
        return None
    values = [[c.metrics.get(name) for name in names] for c in candidates]
    rows = [escape(short_label(c)) + ("" if c.on_front else " ○") for c in candidates]
    heat = Heatmap(
        z=values,
        x=[escape(title_of(name).removeprefix("validation recall").lstrip(", ")) for name in names],
        y=[f"{number}: {row}" for number, row in enumerate(rows, start=1)],
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={"title": {"text": "recall"}, "thickness": 12},
        hovertemplate="%{y}<br>%{x}: %{z:.3f}<extra></extra>",
    )
    figure = Figure(heat).update_layout(layout("slices", 140 + 22 * len(candidates)))
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure.update_xaxes(automargin=True, type="category")


def _is_slice(name: str) -> bool:
    return name.startswith("validation_recall_") and not name.endswith("_spread")


def _by_number(name: str) -> tuple[str, float]:
    stem, _, number = name.rpartition("_")
    return (stem, float(number)) if number.isdigit() else (name, 0.0)


def state_figure(front: Front) -> "Figure | None":
    """The first objective against the second and, beside it, against the bytes of the state."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    up = front.objectives[0]
    across = list(dict.fromkeys([*(o.reading for o in front.objectives[1:2]), "state_bytes"]))
    known = [name for name in across if any(name in c.metrics for c in front.candidates)]
    if len(known) < 2:
        return None
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03)
    for architecture, candidates in by_architecture(front).items():
        mark = mark_of(architecture)
        for column, name in enumerate(known, start=1):
            own = [c for c in candidates if name in c.metrics]
            figure.add_trace(
                Scatter(
                    x=[c.metrics[name] for c in own],
                    y=[c.metrics[up.reading] for c in own],
                    mode="markers",
                    name=escape(architecture),
                    legendgroup=architecture,
                    showlegend=column == 1,
                    marker={
                        "color": mark.colour,
                        "symbol": [mark.symbol + ("" if c.on_front else "-open") for c in own],
                        "size": 10,
                    },
                    hovertext=[escape(c.label) for c in own],
                    hoverinfo="text+x+y",
                ),
                row=1,
                col=column,
            )
    for column, name in enumerate(known, start=1):
        title = metric(name).axis or metric(name).title
        kind = "log" if name == "state_bytes" else "linear"
        figure.update_xaxes(title_text=escape(title), type=kind, gridcolor=GRID, row=1, col=column)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(title_text=escape(metric(up.reading).axis or up.metric), row=1, col=1)
    legend = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
    return figure.update_layout(layout("state", 440), legend=legend)


def parallel_figure(front: Front) -> "Figure | None":
    """Parallel coordinates: a line a configuration over its knobs and objectives, each axis over its own range."""
    from plotly.graph_objects import Figure, Scatter

    figures = {o.reading: title_of_objective(o) for o in front.objectives} | {
        "state_bytes": title_of("state_bytes")
    }
    axes = [*front.knob_names[:MOST_KNOBS], *figures]
    if not front.candidates or not front.knob_names:
        return None
    shown = [partial(show, name) if name in figures else show_knob for name in axes]
    scales = [
        _Scale([_read(c, name) for c in front.candidates], text)
        for name, text in zip(axes, shown, strict=True)
    ]
    figure = Figure()
    for architecture, candidates in by_architecture(front).items():
        for on_front in (False, True):
            own = [c for c in candidates if c.on_front == on_front]
            points = [[*(s.at(_read(c, n)) for s, n in zip(scales, axes, strict=True)), None] for c in own]
            if own:
                figure.add_trace(
                    Scatter(
                        x=[*range(len(axes)), None] * len(own),
                        y=[value for line in points for value in line],
                        hovertext=[escape(c.label) for c in own for _ in range(len(axes) + 1)],
                        hoverinfo="text",
                        mode="lines+markers",
                        connectgaps=False,
                        name=escape(architecture) + ("" if on_front else ", off the front"),
                        line={"color": mark_of(architecture).colour, "width": 2.2 if on_front else 0.8},
                        marker={"size": 5},
                        opacity=1.0 if on_front else 0.45,
                    )
                )
    for place, scale in enumerate(scales):
        figure.add_vline(x=place, line={"color": RING, "width": 1})
        for y, text, anchor in ((0, scale.low, "top"), (1, scale.high, "bottom")):
            figure.add_annotation(
                x=place, y=y, text=escape(text), showarrow=False, yanchor=anchor, font={"size": 11}
            )
    titles = [escape(figures.get(name, name)) for name in axes]
    figure.update_xaxes(tickvals=list(range(len(axes))), ticktext=titles, showgrid=False, zeroline=False)
    figure.update_yaxes(visible=False, range=[-0.1, 1.1])
    legend = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
    return figure.update_layout(layout("parallel", 480), legend=legend)


class _Scale:
    """One axis of parallel coordinates: numbers by their size, anything else by its rank."""

    def __init__(self, values: Sequence[Any], text: Callable[[Any], str]) -> None:
        own = [value for value in values if value is not None]
        self._numeric = all(map(is_number, own))
        self._ranks = {str(value): rank for rank, value in enumerate(sorted(set(map(str, own))))}
        places = [self._place(value) for value in own]
        self._least, self._most = min(places, default=0.0), max(places, default=0.0)
        ordered = sorted(own, key=self._place)
        self.low, self.high = (text(ordered[0]), text(ordered[-1])) if ordered else ("", "")

    def _place(self, value: Any) -> float:
        return float(value) if self._numeric else float(self._ranks[str(value)])

    def at(self, value: Any) -> float | None:
        if value is None:
            return None
        span = self._most - self._least
        return (self._place(value) - self._least) / span if span else 0.5


def _read(candidate: Candidate, name: str) -> Any:
    return candidate.metrics.get(name, candidate.knobs.get(name))


def layout(name: str, height: int) -> dict[str, Any]:
    return layout_of(name) | {"height": height, "margin": {"l": 70, "r": 24, "t": 36, "b": 60}}
