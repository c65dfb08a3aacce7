"""MAD's fuzzy recall (arXiv:2403.17844): keys and values are motifs of several tokens, to be kept apart by the reader.

Rows equal those of the authors' generator, which shuffles the list of all motifs for every row; here the same shuffle
moves indices, and only the motifs that are drawn are spelled out.
"""

import math
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recallfront.sweeps.drawing import Integers
from recallfront.sweeps.stream import Drawer, NoisyRows, NoisyTask, Row, stacked
from recallfront.sweeps.tasks.base import IGNORED

_MOST_MOTIFS = 2**20  # of the largest sizes: shuffling twice as many takes a third of a second a row


class MADFuzzyInContextRecall(NoisyTask):
    """MAD's fuzzy in-context recall: every token of a repeated key's value is asked for."""

    name: Literal["mad_fuzzy_in_context_recall"] = "mad_fuzzy_in_context_recall"
    vocab_size: int = Field(
        default=16, ge=4, le=1024, description="Number of tokens, padding and noise included."
    )
    k_motif_size: int = Field(default=3, ge=1, le=3, description="Most tokens of a key.")
    v_motif_size: int = Field(default=3, ge=1, le=3, description="Most tokens of a value.")
    multi_query: bool = Field(
        default=True, description="Whether each repeated key is asked for; otherwise only the last one is."
    )

    @model_validator(mode="after")
    def _has_motifs(self) -> Self:
        keys, values = _key_and_value_tokens(self.vocab_size, self.noise_vocab_size, self.multi_query)
        if keys < self.k_motif_size or values < self.v_motif_size:
            raise ValueError(
                f"vocab_size={self.vocab_size}: leaves {keys} tokens for keys of k_motif_size={self.k_motif_size} and "
                f"{values} for values of v_motif_size={self.v_motif_size}"
            )
        motifs = math.perm(keys, self.k_motif_size) + math.perm(values, self.v_motif_size)
        if motifs > _MOST_MOTIFS:
            raise ValueError(
                f"vocab_size={self.vocab_size}: makes {motifs:,} keys and values of k_motif_size={self.k_motif_size} "
                f"and v_motif_size={self.v_motif_size}, all of which are shuffled for every row; must make at most "
                f"{_MOST_MOTIFS:,}"
            )
        shortest = 2 * (self.k_motif_size + self.v_motif_size) + 1
        for rows in (*self.train, *self.validation, *self.test):
            if rows.length < shortest:
                raise ValueError(
                    f"length={rows.length}: must be at least {shortest} for motifs of these sizes"
                )
        return self

    def drawer(self) -> Drawer[NoisyRows]:
        rng = np.random.default_rng(self.seed)

        def draw(rows: NoisyRows, training: bool) -> tuple[Integers, Integers]:
            row = fuzzy_in_context_recall(
                vocab_size=self.vocab_size,
                k_motif_size=self.k_motif_size,
                v_motif_size=self.v_motif_size,
                noise_vocab_size=self.noise_vocab_size,
                frac_noise=self.noise_of(rows),
                multi_query=self.multi_query,
            )
            return stacked(row(rng, rows.length, training) for _ in range(rows.examples))

        return draw


def _key_and_value_tokens(vocab_size: int, noise_vocab_size: int, multi_query: bool) -> tuple[int, int]:
    tokens = vocab_size - (1 if multi_query else 2) - noise_vocab_size
    return tokens // 2, tokens - tokens // 2


def fuzzy_in_context_recall(
    *,
    vocab_size: int,
    k_motif_size: int = 3,
    v_motif_size: int = 3,
    noise_vocab_size: int = 0,
    frac_noise: float = 0.0,
    multi_query: bool = True,
) -> Callable[[np.random.Generator, int, bool], Row]:
    """A function that draws one row: (generator, length, whether for training) -> (inputs, labels)."""
    prefix = [] if multi_query else [vocab_size - 1]
    padding = vocab_size - (1 if multi_query else 2)
    num_keys, num_values = _key_and_value_tokens(vocab_size, noise_vocab_size, multi_query)
    longest = k_motif_size + v_motif_size

    def row(rng: np.random.Generator, length: int, training: bool) -> Row:
        key_sizes = list(range(1, k_motif_size + 1)) if training else [k_motif_size]
        keys = {size: _Motifs(rng, 0, num_keys, size) for size in key_sizes}
        values = {size: _Motifs(rng, num_keys, num_values, size) for size in range(1, v_motif_size + 1)}

        def size_of_key() -> int:
            return key_sizes[int(rng.integers(0, len(key_sizes)))] if training else k_motif_size

        def size_of_value() -> int:
            return 1 + int(rng.integers(0, v_motif_size))

        probe_key_size, probe_value_size = size_of_key(), size_of_value()
        probe_key = keys[probe_key_size].draw(rng)
        probe_value = values[probe_value_size].draw(rng)
        probe_size = probe_key_size + probe_value_size
        at = int(rng.integers(0, length - 2 * probe_size))
        shown = {}
        probe_in = False
        sequence: list[int] = []
        asked: list[int] = []
        while len(sequence) < length - probe_size - longest:
            key_size, value_size = size_of_key(), size_of_value()
            if len(sequence) >= at and not probe_in:
                sequence += [*probe_key, *probe_value]
                asked += [IGNORED] * probe_size
                shown[probe_key] = probe_value
                probe_in = True
                continue
            if frac_noise > 0 and rng.random() < frac_noise:
                size = key_size + value_size
                sequence += (
                    padding - noise_vocab_size + rng.integers(0, noise_vocab_size, size=size)
                ).tolist()
                asked += [IGNORED] * size
                continue
            key = keys[key_size].draw(rng)
            known = key in shown
            if key == probe_key and not known:
                shown[key], probe_in = probe_value, True
            elif not known:
                shown[key] = values[value_size].draw(rng)
            value = shown[key]
            sequence += [*key, *value]
            asked += [IGNORED] * len(key)
            asked += list(value) if known and multi_query else [IGNORED] * len(value)
        sequence += [*prefix, *probe_key, *probe_value]
        asked += [IGNORED] * (len(prefix) + len(probe_key)) + list(probe_value)
        missing = length + 1 - len(sequence)
        sequence = [padding] * missing + sequence
        asked = [IGNORED] * missing + asked
        return sequence[:-1], (sequence if training else asked)[1:]

    return row


class _Motifs:
    """All ordered motifs of `size` distinct tokens first .. first + count - 1, in an order shuffled for one row."""

    def __init__(self, rng: np.random.Generator, first: int, count: int, size: int) -> None:
        self.first, self.count, self.size = first, count, size
        self.order = np.arange(math.perm(count, size))
        rng.shuffle(self.order)

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """One motif; `order` holds the ranks of motifs in lexicographic order."""
        rank = int(self.order[int(rng.integers(0, len(self.order)))])
        left = list(range(self.first, self.first + self.count))
        motif = []
        for position in range(self.size):
            index, rank = divmod(rank, math.perm(len(left) - 1, self.size - position - 1))
            motif.append(left.pop(index))
        return tuple(motif)
