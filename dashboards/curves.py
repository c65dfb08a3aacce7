"""What trials did over steps and what configurations do over contexts: learning curves with the rungs, throughput.

Plotly is imported where it is first used, so that reading this file costs little.
"""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from recallfront.dashboards.understanding import layout
from recallfront.dashboards.views import SweepView
from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import mark_of
from recallfront.platform.front.pictures.contexts import at_contexts
from recallfront.platform.front.pictures.figures import GRID, RING
from recallfront.platform.metrics import metric
from recallfront.platform.results.labels import architecture_of, trial_label
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status
from recallfront.platform.search.forecast import RECALL
from recallfront.platform.search.halving import rungs
from recallfront.platform.tracking.curves import Curve
from recallfront.sweeps.search import EarlyStopping

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_CURVES: Final = 80
MOST_POINTS: Final = 100  # of a curve
DECODE: Final = "decode_tokens_per_second"
_LEGEND: Final = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
_ENDED: Final = (Status.PRUNED, Status.DOMINATED)


def chosen_trials(view: SweepView) -> list[TrialRecord]:
    """Whose curves are drawn: those on the front first, then the latest; no more than a person can tell apart."""
    members = {run for candidate in view.front.members for run in candidate.run_ids}
    known = [trial for trial in view.record.trials if trial.run_id and not trial.status.is_failure]
    return sorted(known, key=lambda t: (t.run_id not in members, -t.start_time))[:MOST_CURVES]


def rungs_of(view: SweepView) -> list[int]:
    """The steps after which the sweep stops trials; none if it does not, or its specification says nothing clear."""
    steps = max((trial.config.get("training", {}).get("steps", 0) for trial in view.record.trials), default=0)
    asked = view.record.spec.get("early_stopping")
    if not asked:
        return []
    try:
        return rungs(EarlyStopping.model_validate(asked), steps)
    except ValidationError:
        return []


def learning_figure(view: SweepView, curves: Mapping[str, Mapping[str, Curve]]) -> "Figure | None":
    """Validation recall by training step, a line a trial; the rungs, and a cross where a trial was stopped."""
    from plotly.graph_objects import Figure, Scatter

    figure, named = Figure(), set[str]()
    stopped = list[tuple[int, float, str]]()
    for trial in chosen_trials(view):
        curve = _thin(curves.get(trial.run_id, {}).get(RECALL, []))
        if not curve:
            continue
        architecture, label = architecture_of(trial), trial_label(trial, view.varying)
        was_stopped = trial.status in _ENDED
        figure.add_trace(
            Scatter(
                x=[step for step, _ in curve],
                y=[value for _, value in curve],
                mode="lines" if len(curve) > 1 else "markers",
                name=escape(architecture),
                legendgroup=architecture,
                showlegend=architecture not in named,
                line={"color": mark_of(architecture).colour, "width": 1.4},
                opacity=0.4 if was_stopped else 0.85,
                hovertemplate=f"{escape(label)}<br>%{{y:.3f}} at step %{{x}}<extra></extra>",
            )
        )
        named.add(architecture)
        if was_stopped:
            reason = trial.failure or "stopped"
            stopped.append((*curve[-1], escape(f"{label}: {reason}")))
    if not named:
        return None
    if stopped:
        steps, values, told = zip(*stopped, strict=True)
        cross = {"symbol": "x", "size": 9, "color": "#D55E00"}
        figure.add_trace(
            Scatter(
                x=steps,
                y=values,
                mode="markers",
                marker=cross,
                name="stopped",
                hovertext=told,
                hoverinfo="text",
            )
        )
    for number, step in enumerate(rungs_of(view), start=1):
        figure.add_vline(
            x=step,
            line={"color": RING, "width": 1, "dash": "dash"},
            annotation={"text": f"rung {number}", "font": {"size": 11}},
        )
    figure.update_xaxes(title_text="training step", gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(title_text=metric(RECALL).axis, gridcolor=GRID, range=[0, 1.02], automargin=True)
    return figure.update_layout(layout("learning", 460), legend=_LEGEND, hovermode="closest")


def contexts_figure(front: Front) -> "Figure | None":
    """Decoding throughput by context, a line a configuration, where it was measured at several contexts."""
    from plotly.graph_objects import Figure, Scatter

    figure, named = Figure(), set[str]()
    for candidate in sorted(front.candidates, key=lambda c: not c.on_front)[:MOST_CURVES]:
        points = at_contexts(candidate, DECODE)
        if len(points) < 2:
            continue
        mark, name = mark_of(candidate.architecture), candidate.architecture
        figure.add_trace(
            Scatter(
                x=[context for context, _, _ in points],
                y=[value for _, value, _ in points],
                error_y={
                    "type": "data",
                    "array": [spread for _, _, spread in points],
                    "thickness": 1.2,
                    "width": 3,
                },
                mode="lines+markers",
                name=escape(name),
                legendgroup=name,
                showlegend=name not in named,
                line={"color": mark.colour, "width": 2 if candidate.on_front else 1},
                marker={"symbol": mark.symbol + ("" if candidate.on_front else "-open"), "size": 8},
                opacity=1.0 if candidate.on_front else 0.5,
                hovertemplate=f"{escape(candidate.label)}<br>%{{y:,.0f}} tokens/s at %{{x:,}}<extra></extra>",
            )
        )
        named.add(name)
    if not named:
        return None
    figure.update_xaxes(title_text="context (tokens), log scale", type="log", gridcolor=GRID, automargin=True)
    title = f"{metric(DECODE).axis}, log scale"
    figure.update_yaxes(title_text=title, type="log", gridcolor=GRID, automargin=True)
    return figure.update_layout(layout("contexts", 460), legend=_LEGEND)


def _thin(curve: Curve) -> list[tuple[int, float]]:
    """So many points of a curve, its end among them."""
    kept = [(step, value) for step, value in curve if value == value]
    step = -(-len(kept) // MOST_POINTS) or 1
    return [*kept[:-1:step], *kept[-1:]]
