"""Language modelling of real text: each token from those before it; recall is that of AR hits.

A token is an AR hit if it ends a bigram that its context has had before, and that is rare in training (Zoology,
arXiv:2312.04927, section 3.1): what a model can know of the context alone. Documents are held out whole, and each kind
of held-out rows is evaluated without overlap, or sliding with a stride (ALiBi, arXiv:2108.12409).

What stores and reads text is imported where it is first used, so that the command starts fast.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from recallfront.sweeps.tasks.base import Counts, Split, TaskData
from recallfront.sweeps.text.settings import TextSettings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Text(TextSettings):
    """Text of files or data sets; perplexity, AR hits, the loss by position, and at lengths beyond training."""

    name: Literal["text"] = "text"

    def store(self, folder: "Path") -> str:
        from recallfront.sweeps.text.corpus import store

        return store(self, folder)

    def read(self, folder: "Path") -> TaskData:
        from recallfront.sweeps.text.corpus import read

        return read(self, folder)

    def asked_of(self, data: TaskData, split: Split) -> "Iterable[Tensor]":
        from recallfront.sweeps.text.windows import blocks

        first = data.splits[split][0]
        masks = data.parts[split][first.name]
        window = self.length_of(self.rows_of(split)[0])
        return (masks(rows)[f"hits/{first.name}"] for rows in blocks(len(first.inputs), window))

    def figures(self, segments: Mapping[str, Counts], slices: Mapping[str, Counts]) -> dict[str, float]:
        """`recall` is the share of right AR hits, `accuracy` that of all tokens; `loss` and `perplexity` are over all.

        Of several kinds of rows the first is meant, and each kind has figures of its own: `recall_at_1024`,
        `perplexity_at_1024`, and `perplexity_sliding_at_1024` where rows overlap, or
        `perplexity_sliding_at_1024_stride_64` where rows of that length overlap in several ways.
        `loss_at_position_64` is of the places 64 to 127 of a document, or of a row if positions do not restart.
        """
        first = next(iter(segments))
        whole, hits, other = segments[first], slices[f"hits/{first}"], slices[f"other/{first}"]
        found = {
            "recall": _recall(hits),
            "accuracy": whole.recall,
            "loss": whole.loss / whole.asked,
            "perplexity": _perplexity(whole),
            "perplexity_ar_hits": _perplexity(hits),
            "perplexity_other": _perplexity(other),
            "ar_hit_share": hits.asked / whole.asked,
        }
        for name, counts in segments.items():
            kind = _kind(name, segments)
            found[f"perplexity_{kind}"] = _perplexity(counts)
            found[f"recall_{kind}"] = _recall(slices[f"hits/{name}"])
        for name, counts in slices.items():
            part, _, rows = name.partition("/")
            if rows == first and part.startswith("position_") and counts.asked:
                found[f"loss_at_{part}"] = counts.loss / counts.asked
        return {name: value for name, value in found.items() if not math.isnan(value)}


def _kind(name: str, segments: Iterable[str]) -> str:
    """How figures of one kind of rows are called; with the stride where several kinds slide over the same length."""
    length, _, stride = name.partition("_stride_")
    if not stride:
        return f"at_{length}"
    alike = [other for other in segments if other.startswith(f"{length}_stride_")]
    return f"sliding_at_{name if len(alike) > 1 else length}"


def _recall(counts: Counts) -> float:
    """The share of right answers; 0 if nothing is asked."""
    return counts.recall if counts.asked else 0.0


def _perplexity(counts: Counts) -> float:
    """NaN if nothing is asked, infinite if it is beyond a float."""
    if not counts.asked:
        return math.nan
    mean = counts.loss / counts.asked
    return math.exp(mean) if mean < 700 else math.inf
