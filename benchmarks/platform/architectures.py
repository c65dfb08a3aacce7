"""The architectures as tables: training over matrix products, decoding as contexts grow, the released code."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table

from recallfront.benchmarks.models import released
from recallfront.benchmarks.models.costs import CONTEXTS, decoding_costs, training_costs
from recallfront.benchmarks.platform import zoology
from recallfront.platform.trial.engine import keep_freed_memory


def architecture_tables(against: Path | None = None, show: Callable[[Table | str], None] = print) -> None:
    """Measure on two threads of the CPU and show one table after the other, each as soon as it is known.

    `against` is a checkout of google-deepmind/recurrentgemma or HazyResearch/zoology; without one that comparison is
    skipped with a sentence.
    """
    keep_freed_memory()  # as trials do
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        show(_training())
        show(_decoding())
        show(
            _zoology(against)
            if against is not None and (against / "zoology").is_dir()
            else _released(against)
        )
    finally:
        torch.set_num_threads(before)


def _training() -> Table:
    table = _table(
        "training: forward and backward, width 256, 6 layers, 4 x 512 tokens",
        ("architecture", "tokens/s", "ms", "matrix products alone, ms", "ratio"),
    )
    for cost in training_costs():
        rate, whole, alone = cost.tokens_per_second, cost.seconds * 1e3, cost.matrix_seconds * 1e3
        table.add_row(
            cost.architecture, f"{rate:,.0f}", f"{whole:.0f}", f"{alone:.0f}", f"{cost.over_matrices:.2f}"
        )
    return table


def _decoding() -> Table:
    table = _table(
        "4 rows after each context: prefill and decode in tokens/s, state in KiB",
        ("architecture", "", *(f"{context:,}" for context in CONTEXTS), "growth"),
    )
    costs = decoding_costs()
    for start in range(0, len(costs), len(CONTEXTS)):
        rows = costs[start : start + len(CONTEXTS)]
        grown = rows[-1].decode_seconds / rows[0].decode_seconds
        table.add_row(rows[0].architecture, "prefill", *(f"{r.prefill_tokens_per_second:,.0f}" for r in rows))
        table.add_row("", "decode", *(f"{r.decode_tokens_per_second:,.0f}" for r in rows), f"{grown:.2f}")
        table.add_row("", "state", *(f"{r.state_bytes / 1024:,.0f}" for r in rows))
    table.caption = "growth: seconds of a decode step after the longest context over those after the shortest"
    return table


def _zoology(against: Path) -> Table | str:
    if reason := zoology.why_not(against):
        return f"zoology's trainer: skipped; {reason}"
    work = f"width {zoology.WIDTH}, {zoology.BATCH} x {zoology.LENGTH} tokens"
    table = _table(
        f"a training step against zoology's trainer: {work}, one thread, ms",
        ("", "vocabulary", "ours", "theirs", "ratio"),
    )
    for found in zoology.against_zoology(against):
        ours, theirs = found.ours * 1e3, found.theirs * 1e3
        table.add_row(
            found.architecture, f"{found.vocabulary:,}", f"{ours:.1f}", f"{theirs:.1f}", f"{found.ratio:.2f}"
        )
    smallest = min(vocabulary for _, vocabulary in zoology.CASES)
    table.caption = (
        f"MQAR needs more tokens than a row's {zoology.LENGTH}: {smallest} is the smallest even number"
    )
    return table


def _released(against: Path | None) -> Table | str:
    if against is None:
        return (
            "released code: skipped; name a checkout of google-deepmind/recurrentgemma or HazyResearch/zoology with "
            "--against"
        )
    reason = released.why_not(against)
    if reason is not None:
        return f"released code: skipped; {reason}"
    table = _table(
        "against the released RecurrentGemma PyTorch code, tokens/s", ("", "", "ours", "theirs", "ratio")
    )
    for found in released.comparisons(against):
        ours, theirs = found.tokens / found.ours, found.tokens / found.theirs
        table.add_row(found.architecture, found.work, f"{ours:,.0f}", f"{theirs:,.0f}", f"{found.ratio:.2f}")
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table
