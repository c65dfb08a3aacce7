"""Throughput, largest batches and shares of the roofline over several contexts, for a report."""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.pictures.appearance import mark_of
from recallfront.platform.front.pictures.curves import new_picture, put_legend
from recallfront.platform.front.pictures.document import Cells
from recallfront.platform.metrics import metric
from recallfront.sweeps.objectives import AT_CONTEXTS, at_context, split_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMPARED: Final = ("decode_tokens_per_second", "prefill_tokens_per_second")  # with attention's


def at_contexts(candidate: Candidate, name: str) -> list[tuple[int, float, float]]:
    """Context, a metric's value at it and its spread, in the order of the contexts."""
    found = []
    for full, value in candidate.metrics.items():
        known, context = split_context(full)
        if known == name and context is not None and value > 0:
            found.append((context, value, candidate.spreads.get(full, 0.0)))
    return sorted(found)


def contexts_picture(candidates: Sequence[Candidate], name: str) -> "Figure | None":
    """A throughput over contexts, a line a configuration; None if none has it at two."""
    curves = [(candidate, at_contexts(candidate, name)) for candidate in candidates]
    curves = [(candidate, points) for candidate, points in curves if len(points) > 1]
    if not curves:
        return None
    figure, axes = new_picture(4.6)
    for candidate, points in curves:
        mark = mark_of(candidate.architecture)
        contexts, values, spreads = zip(*points, strict=True)
        axes.errorbar(
            contexts,
            values,
            yerr=spreads,
            color=mark.colour,
            marker=mark.marker,
            markersize=6,
            capsize=2,
            label=candidate.architecture,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    places = sorted({context for _, points in curves for context, _, _ in points})
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.set(xlabel="context (tokens), log scale", ylabel=f"{metric(name).axis}, log scale")
    put_legend(figure)
    return figure


def overtakes_at(candidate: Candidate, others: Sequence[Candidate], name: str) -> str:
    """The context from which on a throughput is above the best of the others, of those that were measured; a dash if
    it is not at the longest.
    """
    best: dict[int, float] = {}
    for other in others:
        for context, value, _ in at_contexts(other, name):
            best[context] = max(value, best.get(context, value))
    own = [(context, value) for context, value, _ in at_contexts(candidate, name) if context in best]
    ahead = [context for context, _ in takewhile(lambda point: point[1] > best[point[0]], reversed(own))]
    if not ahead:
        return "–"
    return f"≤ {ahead[-1]:,}" if len(ahead) == len(own) else f"{ahead[-1]:,}"


def contexts_table(candidates: Sequence[Candidate]) -> Cells:
    """What was measured at several contexts, a line for each configuration at each of them; the first line of each
    also tells where it overtakes attention, if that was measured as well.
    """
    told = {split_context(full) for candidate in candidates for full in candidate.metrics}
    contexts = sorted({context for _, context in told if context is not None})
    names = [name for name in AT_CONTEXTS if any(name == known and context for known, context in told)]
    attention = [candidate for candidate in candidates if candidate.architecture == "attention"]
    compared = [name for name in _COMPARED if name in names and 0 < len(attention) < len(candidates)]

    def overtakes(candidate: Candidate, context: int) -> list[str]:
        told_here = context == contexts[0] and candidate not in attention
        return [overtakes_at(candidate, attention, name) if told_here else "" for name in compared]

    rows = [
        [
            candidate.label,
            f"{context:,}",
            *(candidate.describe(at_context(name, context)) for name in names),
            *overtakes(candidate, context),
        ]
        for candidate in candidates
        for context in contexts
    ]
    heads = [f"{name.partition('_')[0]} overtakes attention at" for name in compared]
    return Cells(("configuration", "context", *(metric(name).title for name in names), *heads), rows)
