"""What every picture of a front shares: colours and symbols, axes, and the staircase."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.front import Front
from recallfront.platform.metrics import axis_title, metric, show, title_of_objective
from recallfront.platform.results.labels import show_knob
from recallfront.sweeps.objectives import Objective


@dataclass(frozen=True)
class Mark:
    """How an architecture is drawn; each pair of colour and symbol is unique."""

    colour: str
    symbol: str  # Plotly's name
    marker: str | tuple[int, int, int]  # Matplotlib's name, or points, 1 for a star, and angle


# colours of Okabe and Ito, then of Paul Tol's "muted" scheme: told apart with any colour vision
MARKS = {
    "attention": Mark("#0072B2", "circle", "o"),
    "window": Mark("#56B4E9", "square", "s"),
    "based": Mark("#D55E00", "diamond", "D"),
    "griffin": Mark("#009E73", "triangle-up", "^"),
    "hawk": Mark("#E69F00", "triangle-down", "v"),
    "grouped": Mark("#CC79A7", "pentagon", "p"),
    "linear": Mark("#882255", "hexagon", "h"),
    "mamba2": Mark("#44AA99", "star", "*"),
    "gated_deltanet": Mark("#999933", "cross", "P"),
    "deltanet": Mark("#AA4499", "x", "X"),
    "gla": Mark("#6699CC", "triangle-left", "<"),
    "retnet": Mark("#AA7744", "triangle-right", ">"),
    "kda": Mark("#332288", "diamond-tall", "d"),
    "rwkv7": Mark("#117733", "hexagon2", "H"),
    "hgrn2": Mark("#DDCC77", "star-triangle-up", (3, 1, 0)),
    "hybrid": Mark("#661100", "star-square", (4, 1, 45)),
}
OTHER = Mark("#777777", "octagon", "8")
INK, FAINT, LINE = "#1f2933", "#d9dee4", "#52606d"  # text, grid, staircase

_LOG_FROM = 5.0  # an axis whose ends differ by more than this factor is logarithmic, recall's excepted


@dataclass(frozen=True)
class Axis:
    """One axis of the picture, with its ends and whether it is logarithmic."""

    objective: Objective
    low: float
    high: float
    is_log: bool

    @property
    def title(self) -> str:
        name = axis_title(self.objective)
        return f"{name}, log scale" if self.is_log else name

    @property
    def worst(self) -> float:
        """The end of the axis that nobody wants."""
        return self.low if self.objective.sign > 0 else self.high

    @property
    def ticks(self) -> list[float]:
        """Round values for a logarithmic axis: 1, 2 and 5 times the powers of ten."""
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
        return [value for value in values if self.low <= value <= self.high]


def mark_of(architecture: str) -> Mark:
    return MARKS.get(architecture, OTHER)


def axis_of(front: Front, objective: Objective) -> Axis:
    """The axis that holds every candidate of a front, its spreads included."""
    reading = objective.reading
    ends = [ends_of(candidate, reading) for candidate in front.candidates] or [(0.0, 1.0)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if metric(reading).log_axis and low > 0 and high / low > _LOG_FROM:
        pad = (high / low) ** 0.08
        return Axis(objective, low / pad, high * pad, is_log=True)
    pad = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    # what cannot be negative has no more below 0 than half a mark needs
    below = pad if low < 0 else min(pad, low + 0.03 * (high - low or 1.0))
    return Axis(objective, low - below, high + pad, is_log=False)


_MOST_OFF_FRONT = 1000  # drawn, of those off the front


def axes_of(front: Front) -> tuple[Axis, Axis]:
    """Horizontal and vertical axis: the second objective (throughput) across, the first (recall) up."""
    return axis_of(front, front.objectives[1]), axis_of(front, front.objectives[0])


def staircase(front: Front, across: Axis, up: Axis) -> tuple[list[float], list[float]]:
    """The edge of what the front of two objectives dominates, from one side of the picture to the other."""
    if len(front.objectives) != 2 or not front.members:
        return [], []
    points = [point_of(front, member) for member in front.members]
    points.sort(key=lambda point: across.objective.sign * point[0])
    xs, ys = [across.worst], [points[0][1]]
    for (x, y), (_, y_next) in zip(points, [*points[1:], (0.0, up.worst)], strict=True):
        xs += [x, x]
        ys += [y, y_next]
    return xs, ys


def point_of(front: Front, candidate: Candidate) -> tuple[float, float]:
    """Where a candidate stands: (second objective, first objective)."""
    up, across = front.objectives[:2]
    return candidate.metrics[across.reading], candidate.metrics[up.reading]


def by_architecture(front: Front) -> dict[str, list[Candidate]]:
    """The drawn candidates by architecture, in the order of `MARKS`, unknown ones last."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in drawn(front):
        groups.setdefault(candidate.architecture, []).append(candidate)
    known = list(MARKS)
    ordered = sorted(groups, key=lambda name: (known.index(name) if name in known else len(known), name))
    return {name: groups[name] for name in ordered}


def drawn(front: Front) -> list[Candidate]:
    """The candidates that a picture shows: the front, and of the others as many as can be told apart.

    Those are taken evenly from the slowest to the fastest; the table and the files have all of them.
    """
    others = [candidate for candidate in front.candidates if not candidate.on_front]
    every = -(-len(others) // _MOST_OFF_FRONT) or 1
    shown = set(map(id, others[::every]))
    return [c for c in front.candidates if c.on_front or id(c) in shown]


def short_number(value: float) -> str:
    """A tick's label: 20000 is 20k."""
    for power, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:g}{suffix}"
    return f"{value:g}"


def short_label(candidate: Candidate) -> str:
    """A candidate's label in a picture: `based, window 16, feature 8`."""
    told = [(name, value) for name, value in candidate.knobs.items() if value is not None]
    knobs = [f"{short_knob(name)} {show_knob(value, digits=3)}" for name, value in told]
    return ", ".join([candidate.architecture, *knobs])


def short_knob(name: str) -> str:
    return name.removeprefix("training.").removesuffix("_size").removesuffix("_dim").replace("_", " ")


def summary(front: Front) -> str:
    """One sentence under a picture."""
    against = " and ".join(f"{title_of_objective(o)} {o.reference:g}" for o in front.objectives)
    count = len(front.candidates)
    return (
        f"{len(front.members)} of {count} configuration{'s' if count != 1 else ''} on the front; hypervolume "
        f"{show('hypervolume', front.hypervolume)} against {against}. Filled marks are on the front."
    )


def ends_of(candidate: Candidate, reading: str) -> tuple[float, float]:
    """Where a candidate's error bar begins and ends."""
    return metric(reading).ends(candidate.metrics[reading], candidate.spreads.get(reading, 0.0))


def error_bars(candidates: Sequence[Candidate], reading: str) -> tuple[list[float], list[float]]:
    """How far each error bar reaches below its value, and how far above."""
    pairs = [(c.metrics[reading], *ends_of(c, reading)) for c in candidates]
    return [value - low for value, low, _ in pairs], [high - value for value, _, high in pairs]
