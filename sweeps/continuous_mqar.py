"""Continuous MQAR (zoology): recall over vectors instead of tokens, with embeddings that are given and never trained.

Models here read tokens, so this is not a task of a sweep: the rows are for those who feed vectors to a mixer.
"""

import torch
from torch import Tensor


def continuous_mqar(
    embeddings: Tensor,
    *,
    num_examples: int,
    num_kv_pairs: int,
    seed: int,
    num_passes: int = 1,
    per_sequence_mapping: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw rows whose first half of `embeddings` (V, E) are keys and whose second half are values.

    Each row shows its pairs as [key; value], `num_passes` times in orders of their own, and then each key as [key; 0].
    Without `per_sequence_mapping` the order in which values belong to keys is that of the first row.

    Returns:
        inputs, (num_examples, (num_passes + 1) * num_kv_pairs, 2 E), and labels, int64 (num_examples, num_kv_pairs):
        for each query the value's index among the values.

    Raises:
        ValueError: more pairs than there are keys.
    """
    num_keys, width = len(embeddings) // 2, embeddings.shape[1]
    if num_kv_pairs > num_keys:
        raise ValueError(f"num_kv_pairs={num_kv_pairs}: must be at most {num_keys}, the number of keys")
    generator = torch.Generator().manual_seed(seed)

    def shuffled(count: int) -> Tensor:
        return torch.randperm(count, generator=generator)

    keys, values = embeddings[:num_keys], embeddings[num_keys:]
    length = (num_passes + 1) * num_kv_pairs
    inputs = embeddings.new_zeros(num_examples, length, 2 * width)
    labels = torch.zeros(num_examples, num_kv_pairs, dtype=torch.int64)
    mapping = torch.arange(num_kv_pairs)
    for row in range(num_examples):
        own_keys, own_values = shuffled(num_keys)[:num_kv_pairs], shuffled(num_keys)[:num_kv_pairs]
        if per_sequence_mapping or row == 0:
            mapping = shuffled(num_kv_pairs)
        told = own_values[mapping]
        shown = torch.cat([shuffled(num_kv_pairs) for _ in range(num_passes)])
        asked = shuffled(num_kv_pairs)
        inputs[row, :, :width] = keys[own_keys[torch.cat([shown, asked])]]
        inputs[row, : len(shown), width:] = values[told[shown]]
        labels[row] = told[asked]
    return inputs, labels
