"""Cutting a sequence into chunks that are worked on side by side, joining them again, and vectors of unit length."""

from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.gradients import written_out


def into_chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, T, H, D) -> (B, H, N, chunk, D), zeros after the end."""
    chunks: Tensor = _IntoChunks.apply(x, chunk)  # type: ignore[no-untyped-call]
    return chunks


def from_chunks(x: Tensor, time: int) -> Tensor:
    """(B, H, N, chunk, D) -> (B, time, H, D)."""
    return x.flatten(2, 3)[:, :, :time].transpose(1, 2)


def place_chunks(x: Tensor, room: Tensor) -> Tensor:
    """x (B, T, H, D) written into room (N, B H, chunk, D), zeros after the end."""
    batch, time, heads, _ = x.shape
    size = room.shape[2]
    whole = time // size
    chunks = room.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4)  # (B, N, chunk, H, D)
    chunks[:, :whole] = x[:, : whole * size].unflatten(1, (whole, size))
    if whole < len(room):
        rest = time - whole * size
        chunks[:, whole, :rest] = x[:, whole * size :]
        chunks[:, whole, rest:] = 0
    return room


def join_chunks(x: Tensor, batch: int, time: int) -> Tensor:
    """(N, B H, chunk, D) -> (B, time, H, D), in memory of its own."""
    chunks = x.unflatten(1, (batch, -1)).permute(1, 0, 3, 2, 4)  # (B, N, chunk, H, D)
    size = chunks.shape[2]
    whole, rest = divmod(time, size)
    tokens = x.new_empty(batch, time, *chunks.shape[3:])
    tokens[:, : whole * size].unflatten(1, (whole, size)).copy_(chunks[:, :whole])
    if rest:
        tokens[:, whole * size :] = chunks[:, whole, :rest]
    return tokens


def normalised(x: Tensor) -> Tensor:
    """x scaled to unit length along its last dimension, in its own type; a zero vector (padding) stays zero."""
    y: Tensor = _Normalised.apply(x)  # type: ignore[no-untyped-call]
    return y


class _IntoChunks(torch.autograd.Function):
    """One copy, padding included; its gradient is a view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chunk: int) -> Tensor:
        batch, time, heads, width = x.shape
        ctx.time, count = time, -(-time // chunk)
        chunks = x.new_empty(batch, heads, count * chunk, width)
        chunks[:, :, :time] = x.transpose(1, 2)
        chunks[:, :, time:] = 0
        return chunks.view(batch, heads, count, chunk, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return from_chunks(grad, ctx.time), None


class _Normalised(torch.autograd.Function):
    """Two passes over memory forward and four backward: a third of the composite form's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # wide: the square of a length leaves float16, and CUDA's autocast computes it so in any case
        wide = torch.promote_types(x.dtype, torch.float32)
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = length.reciprocal().masked_fill_(length < 1e-30, 0.0)
        y = (x * inverse).to(x.dtype)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        along = (grad * y).sum(-1, keepdim=True)
        slope: Tensor = torch.addcmul(grad, y, along, value=-1).mul_(inverse)
        return slope
