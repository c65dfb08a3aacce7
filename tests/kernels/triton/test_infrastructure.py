"""The tools of this folder catch what they are for: a wrong sum, an unwritten lane, a byte too many."""

import re

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from recallfront.kernels.common.backend import choose, interpreting
from recallfront.kernels.gpu.compile_table import complaint
from recallfront.kernels.gpu.compiled import Launch, compile_for, describe, resources
from recallfront.kernels.gpu.launching import launch
from tests.kernels.triton.accuracy import assert_accurate
from tests.kernels.triton.interpreter import interpreted, traffic

only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts under the interpreter")


@triton.jit
def _twice(x):
    return x + x


@triton.jit
def _double_sum(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + tl.arange(0, 1), _twice(tl.sum(x, axis=0)) + tl.zeros([1], tl.float32))


def double_sum(x: Tensor) -> Tensor:
    y = torch.empty(2, device=x.device)
    launch(_double_sum, (1,), x, y, x.numel(), num_warps=1, BLOCK=64)
    return y


def test_a_kernel_runs_with_its_helpers_and_what_it_does_not_write_is_nan(device: torch.device) -> None:
    found = double_sum(torch.arange(5.0, device=device))
    assert float(found[0]) == 20
    assert bool(found[1].isnan())


@only_interpreted
def test_bytes_are_counted_where_the_mask_is_on() -> None:
    x = torch.arange(5.0).bfloat16()
    with traffic(addresses=True) as moved:
        double_sum(x)
    assert (moved.loaded, moved.stored) == (5 * 2, 4)
    assert moved.loads(x).tolist() == [1] * 5


@only_interpreted
def test_the_interpreter_leaves_nothing_behind(device: torch.device) -> None:
    run = JITFunction.run
    with interpreted():
        assert interpreting()
        assert JITFunction.run is not run or run.__module__ == interpreted.__module__
    assert isinstance(_double_sum, JITFunction)
    assert JITFunction.run is run


def test_compiling_needs_no_gpu() -> None:
    job = Launch(_double_sum, {"x_ptr": "*bf16", "y_ptr": "*fp32", "n": "i32"}, {"BLOCK": 64}, num_warps=1)
    for architecture in (80, 90):
        found = resources(job, architecture)
        assert 0 < found.registers <= 255
        assert not complaint(found, architecture)
    assert "ptx" in compile_for(job, 90).asm
    with pytest.raises(ValueError, match="n: neither"):
        resources(Launch(_double_sum, {"x_ptr": "*bf16", "y_ptr": "*fp32"}, {"BLOCK": 64}), 80)


@triton.jit(do_not_specialize=["rows"])
def _fill(y_ptr, rows, width, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(y_ptr + place, 1.0, mask=place < rows * width)


def test_only_what_a_kernel_is_specialised_for_is_said_to_be_aligned() -> None:
    text = compile_for(describe(_fill, {"y_ptr": "fp32"}, num_warps=1, BLOCK=64), 90).asm["ttir"]
    aligned = re.findall(
        r"%(\w+): [^%]*tt\.divisibility", next(line for line in text.splitlines() if "@_fill" in line)
    )
    assert aligned == ["y_ptr", "width"]


def test_the_error_rule() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    rough = torch.tensor([1.0 + 1e-4, 2.0])
    assert_accurate(torch.tensor([1.0 - 1.9e-4, 2.0]), rough, exact)
    with pytest.raises(AssertionError, match="norm of the error 0.00021"):
        assert_accurate(torch.tensor([1.0 + 2.1e-4, 2.0]), rough, exact)
    with pytest.raises(AssertionError, match="not finite"):
        assert_accurate(torch.tensor([1.0, float("nan")]), rough, exact)
    # where the reference is exact, one unit in the last place remains
    assert_accurate(torch.tensor([1.0, 2.0 + 2**-22]), exact.float(), exact)


def test_the_chooser(device: torch.device) -> None:
    x = torch.ones(2, device=device)
    assert choose("op", "triton", x, None, obstacle=lambda: None) == "triton"
    assert choose("op", "reference", x, obstacle=lambda: None) == "reference"
    assert choose("op", "auto", x, obstacle=lambda: None) == ("triton" if x.is_cuda else "pytorch")
    assert choose("op", "auto", x, obstacle=lambda: "too wide") == "pytorch"
    with pytest.raises(ValueError, match="op: too wide; backend may be"):
        choose("op", "triton", x, obstacle=lambda: "too wide")
    with pytest.raises(ValueError, match="must share a device"):
        choose("op", "triton", x, x.to("meta"), obstacle=lambda: None)
