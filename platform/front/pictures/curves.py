"""Still pictures of a report beside the front: how recall grew, recall by kind of rows, and the claims' numbers.

Matplotlib is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.claims import ClaimVerdict, Judgement
from recallfront.platform.front.front import Front
from recallfront.platform.front.pictures.appearance import (
    FAINT,
    INK,
    LINE,
    MARKS,
    by_architecture,
    mark_of,
    short_label,
)
from recallfront.platform.metrics import title_of, without_repeats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT_DPI = 110
_WIDTH = 9.0  # inches
_MOST_KINDS = 12
_MOST_LINES = 8  # up to so many configurations are all drawn, else the best of each architecture
_LEGEND = 120  # letters that stand beside each other in the width of a picture
_STROKES = ("solid", "dashed", "dotted", "dashdot")
_FAR = 10.0  # from its threshold: with such a number the axis of the claims is logarithmic, as those on recall share it
# Okabe and Ito's, told apart by their symbols as well
_VERDICTS = {
    ClaimVerdict.SUPPORTED: ("#009E73", "o"),
    ClaimVerdict.CONTRADICTED: ("#D55E00", "X"),
    ClaimVerdict.UNDECIDED: ("#777777", "D"),
}
Points = Sequence[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Course:
    """A configuration and its validation recall over the steps, of each seed."""

    candidate: Candidate
    seeds: Sequence[Points]


def best_of_each(front: Front) -> list[Candidate]:
    """The best configuration of each architecture in the first objective."""
    first = front.objectives[0]
    return [
        max(own, key=lambda c: first.sign * c.metrics[first.reading])
        for own in by_architecture(front).values()
    ]


def drawn_by_kind(front: Front) -> list[Candidate]:
    """Those whose recall is told by kind of rows: all if they are few, else the best of each architecture."""
    return list(front.candidates) if len(front.candidates) <= _MOST_LINES else best_of_each(front)


def curves_picture(courses: Sequence[Course]) -> "Figure":
    """Validation recall against training steps: the mean over the seeds, in the band between the least and the most."""
    figure, axes = new_picture(4.2)
    for course in courses:
        mark = mark_of(course.candidate.architecture)
        by_step: dict[int, list[float]] = {}
        for step, value in (point for points in course.seeds for point in points):
            by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        means = [sum(by_step[step]) / len(by_step[step]) for step in steps]
        low, high = ([of(by_step[step]) for step in steps] for of in (min, max))
        axes.fill_between(steps, low, high, color=mark.colour, alpha=0.15, linewidth=0)
        name = course.candidate.architecture
        axes.plot(steps, means, color=mark.colour, marker=mark.marker, markersize=5, label=name)
    axes.set(xlabel="training step", ylabel="recall (validation)")
    put_legend(figure)
    return figure


@dataclass(frozen=True)
class Kinds:
    """The kinds of rows that recall on test is told of: metric -> short name, and what they are kinds of."""

    names: Mapping[str, str]
    title: str


def kinds_of(candidates: Sequence[Candidate]) -> Kinds | None:
    """By length if rows of several were tested, or else by segment or slice; None if there are not several."""
    told = {name for c in candidates for name in c.metrics if name.startswith("recall_")}
    names = sorted(without_repeats(told))
    lengths = [name for name in names if name.removeprefix("recall_at_").isdigit()]
    chosen = sorted(lengths, key=lambda name: int(name.removeprefix("recall_at_"))) or names[:_MOST_KINDS]
    if len(chosen) < 2:
        return None
    shared = commonprefix(chosen).rpartition("_")[0] + "_"
    title = "tokens of a row" if lengths else shared.removeprefix("recall_").replace("_", " ").strip()
    short = {name: name.removeprefix(shared).replace("_", " ") for name in chosen}
    return Kinds(short, title or "rows")


def kinds_picture(candidates: Sequence[Candidate], kinds: Kinds) -> "Figure":
    """Recall on test of each configuration by kind of rows, with the spread over seeds.

    Those of one architecture have its colour and mark, and lines of different strokes. If all are of one, each has a
    colour and a mark of its own.
    """
    figure, axes = new_picture(4.2)
    places = range(len(kinds.names))
    architectures = [candidate.architecture for candidate in candidates]
    own_marks = list(MARKS.values()) if len(set(architectures)) == 1 else []
    for number, candidate in enumerate(candidates):
        mark = own_marks[number % len(own_marks)] if own_marks else mark_of(candidate.architecture)
        stroke = architectures[:number].count(candidate.architecture)
        own = [(x, name) for x, name in zip(places, kinds.names, strict=True) if name in candidate.metrics]
        axes.errorbar(
            [x for x, _ in own],
            [candidate.metrics[name] for _, name in own],
            yerr=[candidate.spreads.get(name, 0.0) for _, name in own],
            color=mark.colour,
            marker=mark.marker,
            markersize=6,
            capsize=2,
            linestyle=_STROKES[stroke % len(_STROKES)],
            label=short_label(candidate)
            if architectures.count(candidate.architecture) > 1
            else candidate.architecture,
        )
    axes.set_xticks(list(places), list(kinds.names.values()))
    axes.set(xlabel=kinds.title, ylabel="recall on test")
    put_legend(figure)
    return figure


def scatter_picture(candidates: Sequence[Candidate], across: str, up: str, *, log: bool = False) -> "Figure":
    """One figure of each configuration against another, with the spreads over seeds."""
    figure, axes = new_picture(4.6)
    told: set[str] = set()
    for candidate in candidates:
        mark, name = mark_of(candidate.architecture), candidate.architecture
        axes.errorbar(
            candidate.metrics[across],
            candidate.metrics[up],
            xerr=candidate.spreads.get(across, 0.0),
            yerr=candidate.spreads.get(up, 0.0),
            color=mark.colour,
            marker=mark.marker,
            markersize=8,
            capsize=2,
            linestyle="none",
            label="_" if name in told else name,
        )
        told.add(name)
    if log:
        axes.set_xscale("log", base=2)
    axes.set(xlabel=title_of(across), ylabel=title_of(up))
    put_legend(figure)
    return figure


def claims_picture(judgements: Sequence[Judgement]) -> "Figure":
    """Each claim's number with its interval, as a share of the way to its threshold's line at 0."""
    told = [j for j in judgements if j.value is not None]
    figure, axes = new_picture(0.9 + 0.45 * len(told))
    for place, judged in enumerate(reversed(told)):
        colour, marker = _VERDICTS[judged.verdict]
        value, threshold = judged.value or 0.0, judged.claim.comparison.threshold
        low, high = judged.interval or (value, value)
        # so that right of the line is where every claim holds
        sign = 1.0 if judged.claim.comparison.op.startswith(">") else -1.0
        ends = sorted((sign * (low - threshold), sign * (high - threshold)))
        axes.plot(ends, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(sign * (value - threshold), place, color=colour, marker=marker, markersize=8)
        axes.annotate(
            f"{judged.number}  asked {judged.asked}  {judged.verdict}",
            (ends[1], place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            annotation_clip=False,
        )
    axes.axvline(0.0, color=LINE, linewidth=1.2)
    if max((abs((j.value or 0.0) - j.claim.comparison.threshold) for j in told), default=0.0) > _FAR:
        axes.set_xscale("symlog")
    axes.set_yticks(range(len(told)), [judged.claim.id for judged in reversed(told)])
    axes.set_ylim(-0.7, len(told) - 0.3)
    axes.set_xlabel("how far the number is beyond its threshold (the claim holds to the right of the line)")
    axes.margins(x=0.35)
    return figure


def new_picture(height: float) -> "tuple[Figure, Axes]":
    """A picture as wide as every other one of a report, so many inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=REPORT_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    return figure, axes


def put_legend(figure: "Figure") -> None:
    """Name what is drawn above the picture, in as many columns as fit."""
    longest = max(len(str(text)) for text in figure.axes[0].get_legend_handles_labels()[1])
    columns = max(1, min(7, _LEGEND // (longest + 6)))  # a mark takes as much as six letters
    figure.legend(
        loc="outside upper center", ncols=columns, frameon=False, handletextpad=0.4, columnspacing=1.4
    )
