"""Launching a kernel: on the device of its tensors, with every compiler option that matters set on purpose."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Tensor | float | None,
    num_warps: int,
    num_stages: int = 2,
    **constants: Any,
) -> None:
    """Run `kernel` over `grid` with tensors, numbers, and constexprs by name; the first tensor says where.

    A multiply followed by an add may be fused: one rounding fewer, and Triton's default will change.
    """
    if 0 in grid:
        return
    device = next(given.device for given in arguments if isinstance(given, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](
            *arguments, num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True, **constants
        )


def has_wide_state(device: torch.device) -> bool:
    """Whether tensor cores take what they multiply from shared memory, so that registers hold wider states.

    So do those of data centres from Hopper on; under the interpreter, kernels run as there.
    """
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in (9, 10)
