"""Public form of root-mean-square normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.backend import Backend, choose
from recallfront.kernels.checks import check_shape
from recallfront.kernels.linear_scan.covers import TYPES
from recallfront.kernels.rms_norm.pytorch import rms_norm_pytorch
from recallfront.kernels.rms_norm.reference import rms_norm_reference

WIDEST = 8192  # a program holds a row


def obstacle(x: Tensor) -> str | None:
    """Why no kernel covers rows like those of x (..., D), or None."""
    if x.dtype not in TYPES:
        return f"the inputs are {x.dtype}; the kernel has float32, bfloat16 and float16"
    if x.shape[-1] > WIDEST:
        return f"a row has {x.shape[-1]} channels; the kernel has at most {WIDEST}"
    return None


def rms_norm(x: Tensor, gain: Tensor, *, eps: float = 1e-6, backend: Backend = "auto") -> Tensor:
    """x / sqrt(mean x^2 + eps) * gain (arXiv:1910.07467 eq. 4) for x (..., D), gain (D); sums in float32 at least.

    Raises ValueError where shapes do not fit together.
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"rms_norm: x has shape {tuple(x.shape)}; its last size must be at least 1")
    check_shape("rms_norm", "gain", gain, (x.shape[-1],))
    form = choose("rms_norm", backend, x, gain, obstacle=lambda: obstacle(x))
    if form == "triton":
        from recallfront.kernels.rms_norm.triton import normalise

        y, _ = normalise(x, gain, eps)
        return y  # type: ignore[no-any-return]
    if form == "reference":
        return rms_norm_reference(x, gain, eps)
    if not torch.is_grad_enabled():
        return F.rms_norm(x, gain.shape, gain, eps)
    return rms_norm_pytorch(x, gain, eps)
