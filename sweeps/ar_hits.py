"""Which tokens of a text are recalled from its context: the AR hits of Zoology (arXiv:2312.04927, section 3.1).

A token is a hit if the bigram that it ends stood in the same row before, and is rare in the training data. The papers
leave details open; here a bigram lies within one row, occurrences may overlap, and the first token is no hit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recallfront.sweeps.drawing import Integers


@dataclass(frozen=True)
class BigramCounts:
    """How often each bigram appears in the rows that models are trained on."""

    vocab_size: int
    codes: Integers  # first * vocab_size + second, sorted and distinct
    counts: Integers

    @classmethod
    def of(cls, rows: Integers, vocab_size: int) -> "BigramCounts":
        """Count the bigrams of rows (N, T)."""
        codes, counts = np.unique(_codes(rows, vocab_size), return_counts=True)
        return cls(vocab_size, codes, counts.astype(np.int64))

    @classmethod
    def among(
        cls, wanted: Integers, vocab_size: int, chunks: Iterable[NDArray[np.integer[Any]]]
    ) -> "BigramCounts":
        """Count only the wanted bigrams (sorted codes) in a text, so that memory does not grow with it.

        chunks: the text's tokens in pieces (T), each beginning with the last token of the one before.
        """
        counts = np.zeros(len(wanted), dtype=np.int64)
        for chunk in chunks:
            codes, found = np.unique(_codes(chunk[None], vocab_size), return_counts=True)
            at = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
            counts += np.where(codes[at] == wanted, found[at], 0)
        return cls(vocab_size, wanted, counts)

    def ending_at(self, rows: Integers) -> Integers:
        """The count of the bigram that ends at each token of rows (N, T), 0 at the first."""
        found = np.zeros(rows.shape, dtype=np.int64)
        wanted = _codes(rows, self.vocab_size)
        if len(self.codes):
            at = np.minimum(np.searchsorted(self.codes, wanted), len(self.codes) - 1)
            found[:, 1:] = np.where(self.codes[at] == wanted, self.counts[at], 0)
        return found


def previous_occurrence(rows: Integers, vocab_size: int) -> Integers:
    """For each token of rows (N, T) the last position before it at which the same bigram ends, or -1."""
    previous = np.full(rows.shape, -1, dtype=np.int64)
    codes = _codes(rows, vocab_size)
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    before = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1] + 1, -1)
    np.put_along_axis(previous, order[:, 1:] + 1, before, axis=1)
    return previous


def ar_hits(rows: Integers, training: BigramCounts, *, threshold: int) -> NDArray[np.bool_]:
    """Whether each token of rows (N, T) repeats a bigram that training has at most `threshold` times."""
    repeats = previous_occurrence(rows, training.vocab_size) >= 0
    return repeats & (training.ending_at(rows) <= threshold)


def _codes(rows: NDArray[np.integer[Any]], vocab_size: int) -> Integers:
    """A number for each bigram of rows (N, T) -> (N, T - 1)."""
    rows = np.asarray(rows, dtype=np.int64)
    return rows[:, :-1] * vocab_size + rows[:, 1:]
