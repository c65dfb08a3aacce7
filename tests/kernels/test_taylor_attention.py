import pytest
import torch
from torch import Tensor

from recallfront.kernels.common.backend import Backend
from recallfront.kernels.taylor_attention.operator import (
    taylor_attention,
    taylor_attention_extend,
    taylor_attention_step,
    taylor_features,
)
from tests.kernels.golden import GRADIENTS, VALUES, difference, load_golden


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_golden(backend: Backend) -> None:
    golden = load_golden("taylor_attention")
    inputs = [golden[name].requires_grad_() for name in "qkv"]
    q, k, v = (tensor.transpose(1, 2) for tensor in inputs)
    out = taylor_attention(q, k, v, scale=float(golden["scale"]), eps=float(golden["eps"]), backend=backend)
    assert difference(out.transpose(1, 2), golden["out"]) < VALUES
    torch.autograd.backward(out, golden["grad_out"].transpose(1, 2))
    for tensor, name in zip(inputs, "qkv", strict=True):
        assert difference(tensor.grad, golden[f"grad_{name}"]) < GRADIENTS


def draw(time: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, time, 2, 5, dtype=dtype).unbind(0)
    return q, k, torch.randn(2, time, 2, 3, dtype=dtype)


def test_feature_identity() -> None:
    q, k, _ = draw(4)
    s = 0.7 * (q * k).sum(-1)
    product = (taylor_features(q, 0.7) * taylor_features(k, 0.7)).sum(-1)
    torch.testing.assert_close(product, 1 + s + s**2 / 2, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("time", [1, 2, 127, 513, 700])
def test_short_and_chunked_forms_equal_the_definition(time: int) -> None:
    q, k, v = draw(time)
    expected = taylor_attention(q, k, v, backend="reference")
    torch.testing.assert_close(taylor_attention(q, k, v), expected, atol=1e-10, rtol=1e-10)
    state = torch.zeros(2, 2, 1 + 5 + 15, 4, dtype=torch.float64)
    chunked, _ = taylor_attention_extend(q, k, v, state, 5**-0.5, 1e-6)
    torch.testing.assert_close(chunked, expected, atol=1e-10, rtol=1e-10)


def test_steps_equal_the_whole() -> None:
    q, k, v = draw(40)
    expected = taylor_attention(q, k, v)
    state = torch.zeros(2, 2, 1 + 5 + 15, 4, dtype=torch.float64)
    for time in range(40):
        o, state = taylor_attention_step(q[:, time], k[:, time], v[:, time], state)
        torch.testing.assert_close(o, expected[:, time], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("time", [6, 520])
def test_gradients(time: int) -> None:
    inputs = [tensor[:1, :, :1, :2].contiguous().requires_grad_() for tensor in draw(time)]
    assert torch.autograd.gradcheck(taylor_attention, inputs, fast_mode=True)


def test_bad_arguments() -> None:
    q, k, v = draw(4, torch.float32)
    with pytest.raises(ValueError, match="k has shape"):
        taylor_attention(q, k[..., :3], v)
    with pytest.raises(ValueError, match="one floating type"):
        taylor_attention(q, k, v.double())
    with pytest.raises(ValueError, match="need a GPU"):
        taylor_attention(q, k, v, backend="triton")
