"""What gradients that are written out have in common."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from recallfront.kernels.common.precision import outside_autocast


def written_out(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of an autograd function: outside autocast, and an error if it is to be differentiated itself.

    PyTorch's `once_differentiable` makes second derivatives lack a term without a word if the gradient that comes in
    is a constant, as that of a sum is, or if they are asked of `torch.autograd.grad` for some tensors alone.
    """
    run = outside_autocast(backward)

    @wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "create_graph=True: this gradient is written out and cannot be differentiated again; "
                "an operator with backend='reference' can"
            )
        return run(ctx, *grads)

    return once
