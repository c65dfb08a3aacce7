"""When the trials of a sweep ran: each as a bar that tells what it was at, and how it ended.

Plotly is imported where it is first used, so that reading this file costs little.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from recallfront.dashboards.understanding import layout
from recallfront.dashboards.views import SweepView
from recallfront.platform.front.history import devices
from recallfront.platform.front.pictures.figures import GRID
from recallfront.platform.metrics import duration
from recallfront.platform.results.labels import trial_label
from recallfront.platform.results.records import TrialRecord
from recallfront.platform.results.status import Status

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_BARS: Final = 1500
# between two parts of a trial; whatever the trial's status, in a colour of its own
_AT_REST: Final = "at rest"
_COLOURS: Final = {
    "finished": "#009E73",
    "running": "#0072B2",
    "pruned": "#7fb8a4",
    "failed": "#D55E00",
    "invalid": "#D55E00",
    "unfinished": "#999999",
    _AT_REST: "#CC79A7",
}
# what a trial does first, each with the figure that tells its seconds; training takes the rest
_BEFORE: Final = {"waiting": "wait_seconds", "measuring": "measure_seconds"}
_OPACITY: Final = {"waiting": 0.2, "measuring": 0.5, "training": 1.0, _AT_REST: 0.35}


@dataclass(frozen=True)
class _Bar:
    """A part of a trial."""

    lane: int
    status: str
    part: str
    start: float  # seconds since the first trial
    seconds: float
    told: str


def timeline_figure(view: SweepView, now: float) -> "Figure | None":
    """The trials as bars over time, on as many lines as ran at once; waiting and measuring are paler than training."""
    from plotly.graph_objects import Bar, Figure

    trials = sorted(view.record.trials, key=lambda t: t.start_time)[-MOST_BARS:]
    trials = [t for t in trials if t.end_time is not None or view.is_running]
    if not trials:
        return None
    figure, lanes, named = Figure(), lanes_of(trials, now), set[str]()
    groups: dict[tuple[str, str], list[_Bar]] = {}
    for bar in _bars(view, trials, lanes, now):
        groups.setdefault((bar.status, bar.part), []).append(bar)
    # the parts of a status follow each other; the last, training, stands in the legend
    for (status, part), bars in sorted(groups.items(), key=lambda item: (item[0][0], -_OPACITY[item[0][1]])):
        figure.add_trace(
            Bar(
                orientation="h",
                y=[bar.lane + 1 for bar in bars],
                base=[bar.start / 60 for bar in bars],
                x=[bar.seconds / 60 for bar in bars],
                name=status,
                legendgroup=status,
                showlegend=status not in named,
                marker={
                    "color": _COLOURS[status],
                    "opacity": _OPACITY[part],
                    "line": {"color": "rgba(255,255,255,0.7)", "width": 0.6},
                },
                hovertext=[escape(bar.told) for bar in bars],
                hoverinfo="text",
            )
        )
        named.add(status)
    figure.update_layout(
        layout("timeline", min(190 + 26 * (max(lanes) + 1), 740)), barmode="overlay", bargap=0.2, margin_b=100
    )
    figure.update_xaxes(
        title_text="minutes since the first of these trials started", gridcolor=GRID, zeroline=False
    )
    figure.update_yaxes(
        title_text="trials at once", dtick=1, gridcolor=GRID, automargin=True, autorange="reversed"
    )
    # below the axis' title, however few lines there are
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    return figure.update_layout(legend=legend)


def _bars(view: SweepView, trials: Sequence[TrialRecord], lanes: Sequence[int], now: float) -> Iterator[_Bar]:
    for trial, lane in zip(trials, lanes, strict=True):
        status, zero = trial.status.counts_as, trials[0].start_time
        end = max(trial.end_time or now, trial.start_time)
        node = f", on {trial.tags['node']}" if trial.tags.get("node") else ""
        # a bar lasts longer if the trial has rested
        ran = end - trial.start_time if trial.end_time is None else trial.seconds
        told = f"{trial_label(trial, view.varying)}: {trial.status.value}, {duration(ran)}{node}"
        told += f", {trial.failure}" if trial.failure else ""
        for part, begun, until in _parts(trial, end):
            kind = _AT_REST if part == _AT_REST else status
            yield _Bar(
                lane, kind, part, begun - zero, until - begun, f"{part} {duration(until - begun)} of {told}"
            )


def _parts(trial: TrialRecord, end: float) -> Iterator[tuple[str, float, float]]:
    """What a trial was at, from when to when; no part is longer than the time it has, and none is empty."""
    begun, rests = trial.start_time, [rest for rest in trial.rests if rest[1] <= end]
    until = rests[0][0] if rests else end
    for part, name in _BEFORE.items():
        over = min(begun + max(trial.metrics.get(name, 0.0), 0.0), until)
        if over > begun:
            yield part, begun, over
        begun = over
    for rest, goes_on in [*rests, (end, end)]:
        if rest > begun:
            yield "training", begun, rest
        if goes_on > rest:
            yield _AT_REST, rest, goes_on
        begun = goes_on


def lanes_of(trials: Sequence[TrialRecord], now: float) -> list[int]:
    """For each trial, in the order they started, the first line that no earlier one is on any more."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []  # until when, line
    lanes = []
    for trial in trials:
        while busy and busy[0][0] <= trial.start_time:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        lanes.append(lane)
        heapq.heappush(busy, (trial.end_time or now, lane))
    return lanes


def device_seconds(view: SweepView) -> dict[str, float]:
    """Where the device-seconds of the sweep went: status -> seconds of trials that ended so."""
    spent: dict[str, float] = {}
    for trial in view.record.trials:
        if trial.end_time is not None and trial.status is not Status.RUNNING:
            seconds = devices(trial) * trial.seconds
            spent[trial.status.counts_as] = spent.get(trial.status.counts_as, 0.0) + seconds
    return spent
