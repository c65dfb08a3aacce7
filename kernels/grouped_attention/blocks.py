"""Grouped attention on a CPU: group after group, in the cache, with the gradient written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def _by_head(x: Tensor) -> Tensor:
    """(B, T, H, D) -> (B * H, T, D)."""
    return x.transpose(1, 2).flatten(0, 1)


def _by_token(x: Tensor, batch: int) -> Tensor:
    """(B * H, T, D) -> (B, T, H, D)."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


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


def _local(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """relu(q . k) below the diagonal, and its square (rows, n, n)."""
    roots = torch.bmm(q, k.transpose(1, 2)).clamp_(min=0).tril_()
    return roots, roots * roots


class _BlockGrouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, group_size: int, taps: Tensor, scale: Tensor
    ) -> Tensor:
        ctx.batch, ctx.size = q.shape[0], group_size
        q, k, v = _by_head(q), _by_head(k), _by_head(v)
        bands = _Bands(taps, group_size, ctx.batch)
        out, sums = torch.empty_like(v), v.new_zeros(v.shape[0], q.shape[2], v.shape[2])
        states = []
        for start in range(0, q.shape[1], group_size):
            group = slice(start, start + group_size)
            q_g, k_g, v_g = q[:, group], k[:, group], v[:, group]
            count = q_g.shape[1]
            _, weights = _local(q_g, k_g)
            mixed = torch.bmm(weights.add_(bands.now[:, :count, :count]), v_g)
            states.append(sums)
            if start:
                mixed.baddbmm_(q_g, sums * scale)
                mixed.baddbmm_(bands.before[:, :count], v[:, start - bands.reach : start])
            out[:, group] = mixed
            sums = torch.baddbmm(sums, k_g.transpose(1, 2), v_g)
        ctx.save_for_backward(q, k, v, taps, scale, *states)
        return _by_token(out, ctx.batch)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, taps, scale, *states = ctx.saved_tensors
        grad, bands = _by_head(grad), _Bands(taps, ctx.size, ctx.batch)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.zeros_like(v)
        grad_now, grad_before = torch.zeros_like(bands.now), torch.zeros_like(bands.before)
        later = torch.zeros_like(states[0])  # gradient of the sums after this group
        grad_scale = torch.zeros_like(scale)
        for index in reversed(range(len(states))):
            start = index * ctx.size
            group = slice(start, start + ctx.size)
            q_g, k_g, v_g, slope, sums = q[:, group], k[:, group], v[:, group], grad[:, group], states[index]
            count = q_g.shape[1]
            roots, weights = _local(q_g, k_g)
            grad_weights = torch.bmm(slope, v_g.transpose(1, 2)).tril_()
            grad_now[:, :count, :count] += grad_weights
            grad_values = torch.bmm(weights.add_(bands.now[:, :count, :count]).transpose(1, 2), slope)
            grad_roots = grad_weights.mul_(roots).mul_(2)
            grad_queries = torch.bmm(grad_roots, k_g)
            grad_keys = torch.bmm(grad_roots.transpose(1, 2), q_g)
            grad_keys.baddbmm_(v_g, later.transpose(1, 2))
            grad_v[:, group] += grad_values.baddbmm_(k_g, later)
            if start:
                past = slice(start - bands.reach, start)
                grad_queries.baddbmm_(slope, (sums * scale).transpose(1, 2))
                through = torch.bmm(q_g.transpose(1, 2), slope)
                grad_scale += (through * sums).sum()
                later = later + through * scale
                grad_v[:, past] += torch.bmm(bands.before[:, :count].transpose(1, 2), slope)
                grad_before[:, :count] += torch.bmm(slope, v[:, past].transpose(1, 2))
            grad_q[:, group], grad_k[:, group] = grad_queries, grad_keys
        by_head = [x.unflatten(0, (ctx.batch, -1)).sum(0) for x in (grad_now, grad_before)]
        parts = [_by_token(x, ctx.batch) for x in (grad_q, grad_k, grad_v)]
        return (*parts, None, bands.gradient(by_head[0], by_head[1]), grad_scale)
