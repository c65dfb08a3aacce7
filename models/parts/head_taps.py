"""The causal convolution on values, one filter a head, that augments a linear attention (arXiv:2406.07368)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.grouped_attention.pytorch import head_conv, head_conv_step
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.layers import Drawn
from recallfront.models.parts.ring import ring_last, ring_write
from recallfront.models.parts.state import Block, Layout, Step


class HeadTaps(Drawn):
    """Taps (H, P + 1) from zero (the authors' code), so that the convolution grows as it is of use.

    Its state is a ring of the last values (B, H, P + 1, D), of which P must survive to the next step.
    """

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, size))

    def initialise(self, generator: Generator) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, v: Tensor, layout: Layout) -> Tensor:
        """v (B, T, H, D), nothing before its documents."""
        taps = self.weight

        def convolve(v: Tensor) -> Tensor:
            return head_conv(F.pad(v, (0, 0, 0, 0, taps.shape[1] - 1, 0)), taps)

        return layout.by_document(convolve, v)

    def init_state(self, batch_size: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.zeros(batch_size, *self.weight.shape, dim, device=device, dtype=dtype)

    @staticmethod
    def live(tail: Tensor) -> list[Tensor]:
        """The part of the ring that later tokens can reach."""
        return [tail[:, :, 1:]]

    def extend(self, v: Tensor, tail: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """The block's output (B, T, H, D) and the ring after it."""
        before, _ = ring_last(tail, block, self.weight.shape[1] - 1)
        out = head_conv(torch.cat([before.transpose(1, 2), v], dim=1), self.weight.to(v.dtype))
        return out, ring_write(tail, v.transpose(1, 2), block)

    def branch(self, v: Tensor, tail: Tensor, branches: Branches) -> Tensor:
        """The nodes of a draft tree (B, N, H, D): the convolution unfolded (arXiv:2406.07368 sec. 4.3)."""
        heads, size = self.weight.shape
        before, _ = ring_last(tail, branches.block, size - 1)
        values = torch.cat([before, v.transpose(1, 2).to(tail.dtype)], dim=2)  # (B, H, P + N, D)
        index = branches.history(size - 1).expand(heads, -1, -1)
        unfolded = values.new_zeros(heads, v.shape[1], values.shape[2])
        unfolded.scatter_(2, index, self.weight.to(tail.dtype)[:, None].expand_as(index))
        return (unfolded @ values).transpose(1, 2)

    def step(self, v: Tensor, tail: Tensor, step: Step) -> Tensor:
        """One token, v (B, H, D); the ring is updated in place."""
        return head_conv_step(v, tail, step.lengths, self.weight)
