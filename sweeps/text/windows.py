"""Rows of a text that is kept on disk: windows of its tokens, read when they are asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recallfront.sweeps.ar_hits import BigramCounts, previous_occurrence
from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.tasks.base import IGNORED, Parts, Segment
from recallfront.sweeps.windows import BEGINNING, EMPTY, windows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOGETHER = 2**20  # tokens of the rows of a block


class Windows:
    """The forward passes over the first `limit` tokens of a text; see `evaluation_windows`.

    `end` is the token between documents: it stands before the first.
    """

    def __init__(
        self, tokens: "NDArray[np.unsignedinteger[Any]]", *, limit: int, window: int, stride: int, end: int
    ) -> None:
        self.tokens, self.limit, self.window, self.stride, self.end = tokens, limit, window, stride, end

    def __len__(self) -> int:
        return -(-self.limit // self.stride)

    def read(self, rows: Any) -> tuple[Integers, Integers]:
        """The tokens that some passes read, and those that they score, as arrays (N, window)."""
        source, target = windows_of(
            _numbers(rows, len(self)), self.limit, window=self.window, stride=self.stride
        )
        # what fills a row up starts no document
        otherwise = np.where(source == EMPTY, int(self.end == 0), self.end)
        return self._at(source, otherwise), self._at(target, IGNORED)

    def whole(self, rows: Any) -> Integers:
        """What some passes read and the token after it, as an array (N, window + 1); `end` where there is none."""
        source, _ = windows_of(_numbers(rows, len(self)), self.limit, window=self.window, stride=self.stride)
        after = np.where(source == BEGINNING, 0, np.where(source == EMPTY, EMPTY, source + 1))
        return self._at(np.concatenate([source[:, :1], after], axis=1), self.end)

    def _at(self, places: Integers, otherwise: Integers | int) -> Integers:
        """The tokens at places, and something else at those that are negative."""
        return np.where(places >= 0, self.tokens[np.maximum(places, 0)].astype(np.int64), otherwise)

    def segment(self, name: str) -> Segment:
        """These rows as a segment."""
        return Segment(name, _View(self, 0), _View(self, 1))


def blocks(rows: int, window: int) -> Iterator[slice]:
    """Rows of `window` tokens, some at a time."""
    size = max(1, _TOGETHER // window)
    return (slice(first, first + size) for first in range(0, rows, size))


class _View:
    """The inputs or the labels of windows."""

    def __init__(self, windows: Windows, which: int) -> None:
        self._windows, self._which = windows, which

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, rows: Any) -> Tensor:
        return torch.from_numpy(self._windows.read(rows)[self._which])


def parts(windows: Windows, counts: BigramCounts, *, threshold: int, restarts: bool, suffix: str) -> Parts:
    """What is counted of windows for itself: AR hits and the other tokens, and the places in octaves.

    A place is that in the document if positions restart with each, else that in the row. A document's first token,
    which is read off the end of the one before, is then at none.
    """

    def masks(rows: slice) -> dict[str, Tensor]:
        whole, (inputs, labels) = windows.whole(rows), windows.read(rows)
        asked = labels != IGNORED
        hit = asked & hits(whole, counts, threshold=threshold, end=windows.end if restarts else None)[:, 1:]
        place = np.arange(inputs.shape[1]) - (document_starts(inputs, windows.end) if restarts else 0)
        found = {f"hits{suffix}": hit, f"other{suffix}": asked & ~hit}
        placed = asked & (inputs != windows.end) if restarts else asked
        for octave in range(int(place.max()).bit_length() + 1):
            low = 2**octave - 1
            found[f"position_{low + 1}{suffix}"] = placed & (place >= low) & (place < 2 * low + 1)
        return {name: torch.from_numpy(mask) for name, mask in found.items()}

    return masks


def hits(
    rows: Integers, counts: BigramCounts, *, threshold: int | None, end: int | None
) -> "NDArray[np.bool_]":
    """AR hits of rows (N, T), at whatever count if there is no threshold; a document is no context of the next one
    if `end` ends it."""
    previous = previous_occurrence(rows, counts.vocab_size)
    found = previous > (document_starts(rows, end) if end is not None else 0)
    return found if threshold is None else found & (counts.ending_at(rows) <= threshold)


def document_starts(rows: Integers, end: int) -> Integers:
    """For each token of rows (N, T) the place in its row where its document starts."""
    starts = np.zeros_like(rows)
    after = np.where(rows == end, np.arange(1, rows.shape[1] + 1), 0)
    starts[:, 1:] = np.maximum.accumulate(after, axis=1)[:, :-1]
    return starts


def _numbers(rows: Any, count: int) -> Integers:
    """Rows as they are asked for, as numbers."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    return np.asarray(rows, dtype=np.int64).reshape(-1)
