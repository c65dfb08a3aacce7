"""How a long text is cut into forward passes so that each token is scored once (ALiBi, arXiv:2108.12409)."""

import numpy as np

from recallfront.sweeps.drawing import Integers

BEGINNING, EMPTY = -2, -1


def evaluation_windows(tokens: int, *, window: int, stride: int) -> tuple[Integers, Integers]:
    """Forward passes over a text of `tokens` tokens, which read `window` of them and score `stride`.

    With `stride` equal to `window` the passes do not overlap, and the first token that each scores has one token of
    context. With a smaller one every pass reads again what came before, except at the beginning of the text.

    Returns:
        Two arrays (passes, window): the position of the token that is read, BEGINNING for the end-of-sentence before
        the first and EMPTY for none; and the position of the token that is scored there, EMPTY for none.

    Raises:
        ValueError: a stride that is not between 1 and the window.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride}: must be between 1 and window={window}")
    return windows_of(np.arange(-(-tokens // stride)), tokens, window=window, stride=stride)


def windows_of(passes: Integers, tokens: int, *, window: int, stride: int) -> tuple[Integers, Integers]:
    """The same of some passes (N,), by number from 0, as arrays (N, window)."""
    first = passes[:, None] * stride
    begin = np.maximum(first - (window - stride), 0)
    target = begin + np.arange(window)
    inside = target < np.minimum(first + stride, tokens)
    source = np.where(target == 0, BEGINNING, target - 1)
    return np.where(inside, source, EMPTY), np.where(inside & (target >= first), target, EMPTY)
