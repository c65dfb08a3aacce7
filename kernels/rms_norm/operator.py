"""Public form of root-mean-square normalisation.

The kernels are imported where they are first used, since not every machine has Triton.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recallfront.kernels.common.backend import Backend, choose
from recallfront.kernels.common.checks import check_shape
from recallfront.kernels.common.precision import outside_autocast
from recallfront.kernels.rms_norm.coverage import obstacle
from recallfront.kernels.rms_norm.pytorch import rms_norm_pytorch
from recallfront.kernels.rms_norm.reference import rms_norm_reference


@outside_autocast
def rms_norm(x: Tensor, gain: Tensor, *, eps: float = 1e-6, backend: Backend = "auto") -> Tensor:
    """x / sqrt(mean x^2 + eps) * gain (arXiv:1910.07467 eq. 4) for x (..., D), gain (D); sums in float32 at least.

    Raises ValueError if shapes do not fit together.
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
        return F.rms_norm(x, gain.shape, gain.to(x.dtype), eps)
    return rms_norm_pytorch(x, gain, eps)
