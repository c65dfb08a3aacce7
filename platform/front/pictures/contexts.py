"""Throughput, largest batches and shares of the roofline over several contexts, for a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recallfront.platform.front.candidates import Candidate
from recallfront.platform.front.pictures.appearance import mark_of
from recallfront.platform.front.pictures.curves import new_picture, put_legend
from recallfront.platform.front.pictures.document import Cells
from recallfront.platform.metrics import metric
from recallfront.sweeps.objectives import AT_CONTEXTS, at_context, split_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def contexts_table(candidates: Sequence[Candidate]) -> Cells:
    """What was measured at several contexts, a line for each configuration at each of them."""
    told = {split_context(full) for candidate in candidates for full in candidate.metrics}
    contexts = sorted({context for _, context in told if context is not None})
    names = [name for name in AT_CONTEXTS if any(name == known and context for known, context in told)]
    rows = [
        [candidate.label, f"{context:,}", *(candidate.describe(at_context(name, context)) for name in names)]
        for candidate in candidates
        for context in contexts
    ]
    return Cells(("configuration", "context", *(metric(name).title for name in names)), rows)
