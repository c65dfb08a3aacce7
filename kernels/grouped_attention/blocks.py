"""Grouped attention on a CPU: all groups at once, with the gradient written out."""

from typing import Any

import torch
from torch import Tensor

from recallfront.kernels.common.chunks import join_chunks, place_chunks
from recallfront.kernels.common.gradients import written_out

_LEAST_GROUP = 32  # smaller groups are worked on side by side: a launch a group would cost more


def suits(q: Tensor, group_size: int, taps: Tensor | None) -> bool:
    """Whether this form covers the call: it computes as it accumulates, and taps reach one group back at most."""
    wide = q.dtype in (torch.float32, torch.float64)
    reach = 0 if taps is None else taps.shape[1] - 1
    fits = group_size >= max(_LEAST_GROUP, reach) and q.shape[1] > group_size
    return q.device.type == "cpu" and wide and fits and not torch.compiler.is_compiling()


def block_grouped_attention(
    q: Tensor, k: Tensor, v: Tensor, group_size: int, taps: Tensor | None, cross_scale: Tensor | float
) -> Tensor:
    """As `grouped_attention_reference`, of q and k that have unit length already."""
    if taps is None:
        taps = v.new_zeros(v.shape[2], 1)
    scale = cross_scale if isinstance(cross_scale, Tensor) else q.new_tensor(cross_scale)
    out: Tensor = _BlockGrouped.apply(q, k, v, group_size, taps, scale.reshape(1))  # type: ignore[no-untyped-call]
    return out


class _Bands:
    """The taps as matrices: from a group's values to its outputs, and from the last ones of the group before."""

    def __init__(self, taps: Tensor, group_size: int, batch: int) -> None:
        heads, size = taps.shape
        self.reach = size - 1
        place = torch.arange(group_size)[:, None]
        self.near = place - torch.arange(group_size)  # distances
        self.far = place + self.reach - torch.arange(self.reach)
        padded = torch.cat([taps.flip(1), taps.new_zeros(heads, 1)], dim=1)  # by distance, then nothing
        self.now, self.before = (
            padded[:, self._index(distance)].repeat(batch, 1, 1) for distance in (self.near, self.far)
        )

    def _index(self, distance: Tensor) -> Tensor:
        """Distances as columns of `padded`; what no tap reaches is the last."""
        return distance.masked_fill((distance < 0) | (distance > self.reach), self.reach + 1)

    def gradient(self, now: Tensor, before: Tensor) -> Tensor:
        """Gradient of the taps from those of the matrices, (H, group, group) and (H, group, reach)."""
        heads = now.shape[0]
        by_distance = now.new_zeros(heads, self.reach + 2)
        for grad, distance in ((now, self.near), (before, self.far)):
            by_distance.index_add_(1, self._index(distance).flatten(), grad.flatten(1))
        return by_distance[:, :-1].flip(1)


class _BlockGrouped(torch.autograd.Function):
    """Groups come first, so that those of one place in the text lie together: (N, B H, group, D)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, group_size: int, taps: Tensor, scale: Tensor
    ) -> Tensor:
        batch, time, heads, _ = q.shape
        shape = -(-time // group_size), batch * heads, group_size
        q, k, v = (place_chunks(x, x.new_empty(*shape, x.shape[3])) for x in (q, k, v))
        bands = _Bands(taps, group_size, batch)
        roots = (q @ k.mT).clamp_(min=0).tril_()
        weights = (roots * roots).add_(bands.now)
        sums = v.new_empty(*shape[:2], q.shape[3], v.shape[3])  # over the groups before
        sums[0] = 0
        for n in range(1, shape[0]):
            torch.baddbmm(sums[n - 1], k[n - 1].mT, v[n - 1], out=sums[n])
        out = weights @ v
        out.flatten(0, 1).baddbmm_(q.flatten(0, 1), sums.flatten(0, 1), alpha=float(scale))
        for n in range(1, shape[0]):
            out[n].baddbmm_(bands.before, v[n - 1, :, group_size - bands.reach :])
        ctx.save_for_backward(q, k, v, roots, weights, sums, taps, scale)
        ctx.sizes = batch, time
        return join_chunks(out, batch, time)

    @staticmethod
    @written_out
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, roots, weights, sums, taps, scale = ctx.saved_tensors
        batch, factor = ctx.sizes[0], float(scale)
        count, _, size, _ = v.shape
        slope, bands = place_chunks(grad, torch.empty_like(v)), _Bands(taps, size, batch)
        grad_weights = (slope @ v.mT).tril_()
        grad_now = grad_weights.unflatten(1, (batch, -1)).sum((0, 1))
        grad_roots = grad_weights.mul_(roots).flatten(0, 1)  # half of it
        later = torch.empty_like(sums)  # gradient of each group's own sum
        later[-1] = 0
        for n in range(count - 1, 0, -1):
            torch.baddbmm(later[n], q[n].mT, slope[n], alpha=factor, out=later[n - 1])
        grad_q = slope @ sums.mT
        grad_scale = torch.dot(grad_q.flatten(), q.flatten()).view_as(scale)
        grad_q.flatten(0, 1).baddbmm_(grad_roots, k.flatten(0, 1), beta=factor, alpha=2)
        grad_k = v @ later.mT
        grad_k.flatten(0, 1).baddbmm_(grad_roots.mT, q.flatten(0, 1), alpha=2)
        grad_v = weights.mT @ slope
        grad_v.flatten(0, 1).baddbmm_(k.flatten(0, 1), later.flatten(0, 1))
        grad_before = torch.zeros_like(bands.before)
        for n in range(1, count):
            past = slice(size - bands.reach, size)
            grad_v[n - 1, :, past] += bands.before.mT @ slope[n]
            grad_before.baddbmm_(slope[n], v[n - 1, :, past].mT)
        grad_taps = bands.gradient(grad_now, grad_before.unflatten(0, (batch, -1)).sum(0))
        parts = [join_chunks(x, *ctx.sizes) for x in (grad_q, grad_k, grad_v)]
        return parts[0], parts[1], parts[2], None, grad_taps, grad_scale
