"""Which form of an operator runs: its definition, the fast PyTorch form, or the Triton kernel.

Triton is imported where it is first used, since not every machine has it.
"""

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

Backend = Literal["auto", "reference", "triton"]
Form = Literal["reference", "pytorch", "triton"]
F = TypeVar("F", bound=Callable[..., Any])

_OLDEST = (8, 0)  # compute capability that the kernels are compiled and tuned for (A100); bfloat16 needs it
# bytes of shared memory a block that some kernels take on an A100; GPUs for desks have 99 KiB
_SHARED = 163 * 1024


def _constant(function: F) -> F:
    """What `torch.compiler.assume_constant_result` does; to call that imports the compiler, which takes seconds."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def use_reference(operator: str, backend: Backend) -> bool:
    """Whether `backend` asks for the readable definition rather than the fast PyTorch form; for operators
    without a kernel.

    Raises ValueError if `backend` is unknown or asks for a kernel that the operator lacks.
    """
    if backend == "triton":
        raise ValueError(f"{operator} has no Triton kernel yet; backend may be 'auto' or 'reference'")
    return _known(operator, backend) == "reference"


def choose(
    operator: str, backend: Backend, *tensors: Tensor | None, obstacle: Callable[[], str | None]
) -> Form:
    """The form of `operator` that `backend` stands for on these tensors.

    `obstacle` says why no kernel covers the call ("feature_dim is 48; ..."), or None where one does; it is
    asked only where a kernel could run. "auto" takes the kernel on a GPU that it covers, and never the
    interpreter. Raises ValueError if `backend` is unknown, or is "triton" and no kernel can run.
    """
    if _known(operator, backend) == "reference":
        return "reference"
    given = [tensor for tensor in tensors if tensor is not None]
    if backend == "auto":
        if not all(tensor.is_cuda for tensor in given) or kernels_missing(given[0].device) is not None:
            return "pytorch"
        return "pytorch" if _elsewhere(given) or obstacle() else "triton"
    reason = _elsewhere(given) or kernels_missing(given[0].device) or obstacle()
    if reason:
        raise ValueError(f"{operator}: {reason}; backend may be 'auto' or 'reference'")
    return "triton"


def wants_gradient(*tensors: Tensor | None) -> str | None:
    """The obstacle of a kernel without a gradient: a gradient is asked for; or None."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return "a gradient is asked for; a step's kernel has none (torch.no_grad() says so)"
    return None


def captured(x: Tensor) -> bool:
    """Whether what is computed with `x` goes into a CUDA graph: then nothing may be read from the device."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _known(operator: str, backend: Backend) -> Backend:
    if backend not in ("auto", "reference", "triton"):
        raise ValueError(f"{operator}: backend is {backend!r}; it may be 'auto', 'reference' or 'triton'")
    return backend


def _elsewhere(tensors: list[Tensor]) -> str | None:
    devices = {str(tensor.device) for tensor in tensors}
    return (
        f"tensors lie on {', '.join(sorted(devices))}; they must share a device" if len(devices) > 1 else None
    )


def kernels_missing(device: torch.device) -> str | None:
    """Why no Triton kernel can run on `device`, or None where they can."""
    if not _has_triton():
        return "Triton is not installed (pip install triton)"
    if device.type == "cuda":
        missing: str | None = _gpu_missing(device.index or 0)
        return missing
    if interpreting():
        return None
    return f"Triton kernels need a GPU and the tensors are on {device.type} (only Triton's interpreter runs there)"


def interpreting() -> bool:
    """Whether kernels launched now are run by Triton's interpreter, on the CPU."""
    if not _has_triton():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


@_constant
def _gpu_missing(index: int) -> str | None:
    return _read_gpu(index)


@lru_cache
def _read_gpu(index: int) -> str | None:
    if torch.version.hip is not None:
        return "the kernels are made for NVIDIA GPUs and this is an AMD one"
    name, have = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if have < _OLDEST:
        return f"the kernels need compute capability 8.0 and {name} has {have[0]}.{have[1]}"
    about = torch.cuda.get_device_properties(index)
    shared: int = about.shared_memory_per_block_optin  # type: ignore[attr-defined]
    if shared < _SHARED:
        return (
            f"the kernels need {_SHARED >> 10} KiB of shared memory a block and {name} has {shared >> 10} KiB"
        )
    if "CC" not in os.environ and not any(map(shutil.which, ("gcc", "clang"))):
        return "Triton needs a C compiler (gcc, clang, or the one that CC names)"
    return None


@_constant
def _has_triton() -> bool:
    return _find_triton()


@lru_cache
def _find_triton() -> bool:
    return find_spec("triton") is not None
