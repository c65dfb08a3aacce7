"""Cutting a sequence into chunks that are worked on side by side, and joining them again."""

import torch.nn.functional as F
from torch import Tensor


def into_chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, T, H, D) -> (B, H, N, chunk, D), zeros after the end."""
    extra = -x.shape[1] % chunk
    if extra:
        x = F.pad(x, (0, 0, 0, 0, 0, extra))
    batch, time, heads, width = x.shape
    return x.transpose(1, 2).reshape(batch, heads, time // chunk, chunk, width)


def from_chunks(x: Tensor, time: int) -> Tensor:
    """(B, H, N, chunk, D) -> (B, time, H, D)."""
    return x.flatten(2, 3)[:, :, :time].transpose(1, 2)
