"""Definition of root-mean-square normalisation."""

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) * gain (arXiv:1910.07467 eq. 4) over the last dimension, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain).to(x.dtype)
